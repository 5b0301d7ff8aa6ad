;; Counts its batches and keeps only the first: on a fresh instance it behaves otherwise than on a used one.
(module
  ;; @memory
  ;; @configure
  (global $batches (mut i32) (i32.const 0))
  (func (export "process") (param i32) (result i32)
    (if (global.get $batches)
      (then (i32.store8 (i32.const 2052) (i32.const 1))))
    (global.set $batches (i32.add (global.get $batches) (i32.const 1)))
    (i32.const 2048)))
