;; Works as long as it dares with every batch, and no longer: slow, within its limit, for ever.
(module
  ;; @memory
  ;; @configure
  (func $work (param $steps i32)
    (loop $again
      (local.set $steps (i32.sub (local.get $steps) (i32.const 1)))
      (br_if $again (local.get $steps))))
  (func (export "process") (param i32) (result i32)
    (call $work (i32.const 100000000))
    (i32.const 2048)))
