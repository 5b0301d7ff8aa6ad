;; Rejects the first row with a message that is not UTF-8, and keeps none.
(module
  ;; @memory
  ;; @configure
  (data (i32.const 4096) "code\ff\fe")
  (func (export "process") (param i32) (result i32)
    (i32.store8 (i32.const 2052) (i32.const 1))
    (i32.store (i32.const 2056) (i32.const 4200))
    (i32.store (i32.const 2080) (i32.const 5000))
    (i32.store (i32.const 2084) (i32.const 1))
    ;; failure { row, kind: { tag, payload }, code, message }
    (i32.store (i32.const 5012) (i32.const 4096))
    (i32.store (i32.const 5016) (i32.const 4))
    (i32.store (i32.const 5020) (i32.const 4100))
    (i32.store (i32.const 5024) (i32.const 2))
    (i32.const 2048)))
