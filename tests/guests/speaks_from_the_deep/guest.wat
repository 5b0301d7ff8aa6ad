;; Calls itself until the stack ends, and the host at each step: the host needs stack too.
(module
  (import "pelton:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  ;; @memory
  ;; @configure
  (func $deeper (param i32) (result i32)
    (call $log (i32.const 1) (i32.const 0) (i32.const 4))
    (i32.add (i32.const 1) (call $deeper (i32.add (local.get 0) (i32.const 1)))))
  (func (export "process") (param i32) (result i32)
    (drop (call $deeper (i32.const 0)))
    (i32.const 2048)))
