;; Asks for whatever URL each record's value is, one after the other, and gives the body of the answer, or why there is none.
(module
  (import "pelton:plugin/http@0.1.0" "fetch"
    (func $fetch (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  ;; @memory
  (data (i32.const 4096) "GET")
  (func (export "configure") (param i32 i32) (result i32)
    (i32.store8 (i32.const 1028) (i32.const 2))
    (i32.const 1024))
  (func (export "process") (param $batch i32) (result i32)
    (local $rows i32) (local $row i32) (local $edits i32) (local $span i32) (local $edit i32)
    (local.set $rows (i32.load (local.get $batch)))
    (local.set $edits
      (call $realloc (i32.const 0) (i32.const 0) (i32.const 4) (i32.mul (local.get $rows) (i32.const 16))))
    (block $done
      (loop $next
        (br_if $done (i32.eq (local.get $row) (local.get $rows)))
        (local.set $span
          (i32.add (i32.load offset=20 (local.get $batch)) (i32.mul (local.get $row) (i32.const 8))))
        (call $fetch
          (i32.const 4096) (i32.const 3)
          (i32.add (i32.load offset=28 (local.get $batch)) (i32.load (local.get $span)))
          (i32.load offset=4 (local.get $span))
          (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 0)
          (i32.const 5)
          (i32.const 7000))
        (local.set $edit (i32.add (local.get $edits) (i32.mul (local.get $row) (i32.const 16))))
        (i32.store (local.get $edit) (local.get $row))
        (i32.store offset=4 (local.get $edit) (i32.const 1))
        ;; Spans count from address 0: `data` is the whole memory.
        (if (i32.load8_u (i32.const 7000))
          (then
            (i32.store offset=8 (local.get $edit) (i32.load (i32.const 7008)))
            (i32.store offset=12 (local.get $edit) (i32.load (i32.const 7012))))
          (else
            (i32.store offset=8 (local.get $edit) (i32.load (i32.const 7024)))
            (i32.store offset=12 (local.get $edit) (i32.load (i32.const 7028)))))
        (local.set $row (i32.add (local.get $row) (i32.const 1)))
        (br $next)))
    (i32.store (i32.const 2052) (i32.const 2))
    (i32.store (i32.const 2056) (local.get $edits))
    (i32.store (i32.const 2060) (i32.mul (local.get $rows) (i32.const 16)))
    (i32.store (i32.const 2068) (global.get $heap))
    (i32.const 2048)))
