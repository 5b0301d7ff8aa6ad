;; Asks for the log, and refuses its configuration at a key.
(module
  (import "pelton:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  ;; @memory
  (data (i32.const 4096) "alert.above: must not be negative")
  (func (export "configure") (param i32 i32) (result i32)
    (i32.store8 (i32.const 1024) (i32.const 1))
    (i32.store (i32.const 1028) (i32.const 4096))
    (i32.store (i32.const 1032) (i32.const 33))
    (i32.const 1024))
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
