;; Answers two batches well, and the third with a row that does not exist.
(module
  ;; @memory
  ;; @configure
  (global $batches (mut i32) (i32.const 0))
  (func (export "process") (param i32) (result i32)
    (global.set $batches (i32.add (global.get $batches) (i32.const 1)))
    (if (i32.eq (global.get $batches) (i32.const 3))
      (then
        (i32.store8 (i32.const 2052) (i32.const 1))
        (i32.store (i32.const 2056) (i32.const 4096))
        (i32.store (i32.const 2060) (i32.const 4))
        (i32.store (i32.const 4096) (i32.const 7))))
    (i32.const 2048)))
