;; Says no, in words.
(module
  ;; @memory
  (data (i32.const 4096) "vat_percent: must be a number")
  (func (export "configure") (param i32 i32) (result i32)
    (i32.store8 (i32.const 1024) (i32.const 1))
    (i32.store (i32.const 1028) (i32.const 4096))
    (i32.store (i32.const 1032) (i32.const 29))
    (i32.const 1024))
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
