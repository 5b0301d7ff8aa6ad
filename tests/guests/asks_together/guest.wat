;; No sin: asks once for the URLs of a whole batch, and gives the body of each answer, or why there is none.
(module
  (import "pelton:plugin/http@0.1.0" "fetch-all" (func $fetch-all (param i32 i32 i32)))
  ;; @memory
  (data (i32.const 4096) "GET")
  (func (export "configure") (param i32 i32) (result i32)
    (i32.store8 (i32.const 1028) (i32.const 2))
    (i32.const 1024))
  (func (export "process") (param $batch i32) (result i32)
    (local $rows i32) (local $row i32) (local $edits i32) (local $span i32) (local $edit i32)
    (local $requests i32) (local $request i32) (local $answer i32)
    (local.set $rows (i32.load (local.get $batch)))
    (local.set $edits
      (call $realloc (i32.const 0) (i32.const 0) (i32.const 4) (i32.mul (local.get $rows) (i32.const 16))))
    (local.set $requests
      (call $realloc (i32.const 0) (i32.const 0) (i32.const 4) (i32.mul (local.get $rows) (i32.const 48))))
    (memory.fill (local.get $requests) (i32.const 0) (i32.mul (local.get $rows) (i32.const 48)))
    (block $asked
      (loop $next
        (br_if $asked (i32.eq (local.get $row) (local.get $rows)))
        (local.set $request (i32.add (local.get $requests) (i32.mul (local.get $row) (i32.const 48))))
        (local.set $span
          (i32.add (i32.load offset=20 (local.get $batch)) (i32.mul (local.get $row) (i32.const 8))))
        (i32.store (local.get $request) (i32.const 4096))
        (i32.store offset=4 (local.get $request) (i32.const 3))
        (i32.store offset=8 (local.get $request)
          (i32.add (i32.load offset=28 (local.get $batch)) (i32.load (local.get $span))))
        (i32.store offset=12 (local.get $request) (i32.load offset=4 (local.get $span)))
        (i32.store offset=44 (local.get $request) (i32.const 5))
        (local.set $row (i32.add (local.get $row) (i32.const 1)))
        (br $next)))
    (call $fetch-all (local.get $requests) (local.get $rows) (i32.const 7000))
    (local.set $row (i32.const 0))
    (block $done
      (loop $next
        (br_if $done (i32.eq (local.get $row) (local.get $rows)))
        (local.set $answer (i32.add (i32.load (i32.const 7000)) (i32.mul (local.get $row) (i32.const 32))))
        (local.set $edit (i32.add (local.get $edits) (i32.mul (local.get $row) (i32.const 16))))
        (i32.store (local.get $edit) (local.get $row))
        (i32.store offset=4 (local.get $edit) (i32.const 1))
        (if (i32.load8_u (local.get $answer))
          (then
            (i32.store offset=8 (local.get $edit) (i32.load offset=8 (local.get $answer)))
            (i32.store offset=12 (local.get $edit) (i32.load offset=12 (local.get $answer))))
          (else
            (i32.store offset=8 (local.get $edit) (i32.load offset=24 (local.get $answer)))
            (i32.store offset=12 (local.get $edit) (i32.load offset=28 (local.get $answer)))))
        (local.set $row (i32.add (local.get $row) (i32.const 1)))
        (br $next)))
    (i32.store (i32.const 2052) (i32.const 2))
    (i32.store (i32.const 2056) (local.get $edits))
    (i32.store (i32.const 2060) (i32.mul (local.get $rows) (i32.const 16)))
    (i32.store (i32.const 2068) (global.get $heap))
    (i32.const 2048)))
