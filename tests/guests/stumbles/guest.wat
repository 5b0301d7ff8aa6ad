;; Keeps every record, but traps on one that has the header `trap`.
(module
  ;; @memory
  (data (i32.const 4096) "trap")
  (func (export "configure") (param i32 i32) (result i32)
    ;; headers: one name
    (i32.store (i32.const 1032) (i32.const 5000))
    (i32.store (i32.const 1036) (i32.const 1))
    (i32.store (i32.const 5000) (i32.const 4096))
    (i32.store (i32.const 5004) (i32.const 4))
    (i32.const 1024))
  (func (export "process") (param $batch i32) (result i32)
    (local $rows i32) (local $span i32)
    (local.set $rows (i32.load (local.get $batch)))
    (local.set $span (i32.load (i32.load offset=56 (local.get $batch))))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $rows)))
        (if (i32.ne (i32.const -1) (i32.load offset=4 (local.get $span)))
          (then unreachable))
        (local.set $span (i32.add (local.get $span) (i32.const 8)))
        (local.set $rows (i32.sub (local.get $rows) (i32.const 1)))
        (br $next)))
    (i32.const 2048)))
