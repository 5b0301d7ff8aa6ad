;; Calls the host while the host is handing it a batch.
(module
  (import "pelton:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  (memory (export "memory") 2)
  (global $configured (mut i32) (i32.const 0))
  (func (export "configure") (param i32 i32) (result i32)
    (global.set $configured (i32.const 1))
    (i32.const 1024))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (if (global.get $configured)
      (then (call $log (i32.const 1) (i32.const 0) (i32.const 4))))
    (i32.const 65536))
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
