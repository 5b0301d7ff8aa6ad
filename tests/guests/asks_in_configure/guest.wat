;; Asks others before there is a record, and refuses its configuration with what it hears.
(module
  (import "pelton:plugin/http@0.1.0" "fetch"
    (func $fetch (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  ;; @memory
  (data (i32.const 4096) "GEThttp://127.0.0.1/")
  (func (export "configure") (param i32 i32) (result i32)
    (call $fetch
      (i32.const 4096) (i32.const 3)
      (i32.const 4099) (i32.const 17)
      (i32.const 0) (i32.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 0) (i32.const 0)
      (i32.const 0)
      (i32.const 7000))
    (i32.store8 (i32.const 1024) (i32.const 1))
    (i32.store (i32.const 1028) (i32.load (i32.const 7008)))
    (i32.store (i32.const 1032) (i32.load (i32.const 7012)))
    (i32.const 1024))
  (func (export "process") (param $batch i32) (result i32)
    (i32.const 2048)))
