;; Asks for the URL that is its first record's value again and again, and uses hardly any CPU time while it waits.
(module
  (import "pelton:plugin/http@0.1.0" "fetch"
    (func $fetch (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  ;; @memory
  (data (i32.const 4096) "GET")
  (func (export "configure") (param i32 i32) (result i32)
    (i32.store8 (i32.const 1028) (i32.const 2))
    (i32.const 1024))
  (func $ask_for_ever (export "process") (param $batch i32) (result i32)
    (local $span i32) (local $heap i32)
    (local.set $span (i32.load offset=20 (local.get $batch)))
    (local.set $heap (global.get $heap))
    (loop $again
      (global.set $heap (local.get $heap))
      (call $fetch
        (i32.const 4096) (i32.const 3)
        (i32.add (i32.load offset=28 (local.get $batch)) (i32.load (local.get $span)))
        (i32.load offset=4 (local.get $span))
        (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0)
        (i32.const 0)
        (i32.const 7000))
      (br $again))
    (i32.const 2048)))
