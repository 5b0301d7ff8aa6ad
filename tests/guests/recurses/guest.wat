;; Calls itself until the stack ends.
(module
  ;; @memory
  ;; @configure
  (func $deeper (param i32) (result i32)
    (i32.add (i32.const 1) (call $deeper (i32.add (local.get 0) (i32.const 1)))))
  (func (export "process") (param i32) (result i32)
    (drop (call $deeper (i32.const 0)))
    (i32.const 2048)))
