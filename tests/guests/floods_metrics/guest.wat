;; Counts under ten thousand names: n_aaaa, n_baaa, ...
(module
  (import "pelton:plugin/metrics@0.1.0" "count" (func $count (param i32 i32 i64)))
  ;; @memory
  ;; @configure
  (data (i32.const 4096) "n_")
  (func $name (param $number i32)
    (local $digit i32)
    (loop $next
      (i32.store8 (i32.add (i32.const 4098) (local.get $digit))
        (i32.add (i32.const 0x61) (i32.rem_u (local.get $number) (i32.const 10))))
      (local.set $number (i32.div_u (local.get $number) (i32.const 10)))
      (local.set $digit (i32.add (local.get $digit) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $digit) (i32.const 4)))))
  (func (export "process") (param i32) (result i32)
    (local $number i32)
    (loop $more
      (call $name (local.get $number))
      (call $count (i32.const 4096) (i32.const 6) (i64.const 1))
      (local.set $number (i32.add (local.get $number) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $number) (i32.const 10000))))
    (i32.const 2048)))
