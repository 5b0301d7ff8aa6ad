;; Replaces the first row's value by bytes 4 to 12 of a `data` of 8.
(module
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (i32.store8 (i32.const 2052) (i32.const 2))
    (i32.store (i32.const 2056) (i32.const 4096))
    (i32.store (i32.const 2060) (i32.const 16))
    (i32.store (i32.const 4100) (i32.const 1))
    (i32.store (i32.const 4104) (i32.const 4))
    (i32.store (i32.const 4108) (i32.const 8))
    (i32.store (i32.const 2064) (i32.const 8192))
    (i32.store (i32.const 2068) (i32.const 8))
    (i32.const 2048)))
