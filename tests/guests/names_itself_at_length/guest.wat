;; Its functions have names of ninety thousand letters, and it traps below sixty of them: names stand in backtraces.
(module
  ;; @memory
  ;; @configure
  (func $deeper (@name "@times 90000 «n»") (param i32)
    (if (i32.eqz (local.get 0)) (then unreachable))
    (call $deeper (i32.sub (local.get 0) (i32.const 1))))
  (func (export "process") (param i32) (result i32)
    (call $deeper (i32.const 60))
    (i32.const 2048)))
