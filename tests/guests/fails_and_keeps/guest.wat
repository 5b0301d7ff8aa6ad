;; Rejects the first row and keeps it all the same.
(module
  ;; @memory
  ;; @configure
  (data (i32.const 4096) "code")
  (func (export "process") (param i32) (result i32)
    (i32.store (i32.const 2080) (i32.const 5000))
    (i32.store (i32.const 2084) (i32.const 1))
    (i32.store (i32.const 5012) (i32.const 4096))
    (i32.store (i32.const 5016) (i32.const 4))
    (i32.const 2048)))
