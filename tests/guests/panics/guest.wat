;; Says why, and gives up.
(module
  (import "pelton:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  ;; @memory
  ;; @configure
  (data (i32.const 4096) "called `Option::unwrap()` on a `None` value")
  (func $panic_handler
    (call $log (i32.const 3) (i32.const 4096) (i32.const 43))
    unreachable)
  (func $apply_one_row
    (call $panic_handler))
  (func (export "process") (param i32) (result i32)
    (call $apply_one_row)
    (i32.const 2048)))
