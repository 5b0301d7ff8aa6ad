;; Traps where a value begins with `P`, and keeps all else: the poison record of the line's tests.
(module
  ;; @memory
  (func (export "configure") (param i32 i32) (result i32)
    (i32.store8 (i32.const 1028) (i32.const 2))
    (i32.const 1024))
  (func $choke_on_row (param i32) unreachable)
  (func (export "process") (param $batch i32) (result i32)
    (local $row i32) (local $span i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $row) (i32.load (local.get $batch))))
        (local.set $span (i32.add (i32.load offset=20 (local.get $batch)) (i32.mul (local.get $row) (i32.const 8))))
        (if (i32.and
              (i32.ne (i32.load offset=4 (local.get $span)) (i32.const -1))
              (i32.gt_u (i32.load offset=4 (local.get $span)) (i32.const 0)))
          (then
            (if (i32.eq (i32.const 0x50)
                  (i32.load8_u (i32.add (i32.load offset=28 (local.get $batch)) (i32.load (local.get $span)))))
              (then (call $choke_on_row (local.get $row))))))
        (local.set $row (i32.add (local.get $row) (i32.const 1)))
        (br $next)))
    (i32.const 2048)))
