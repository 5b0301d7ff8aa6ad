;; Subscribes to the set-field `total` twice.
(module
  ;; @memory
  (data (i32.const 4096) "total")
  (func (export "configure") (param i32 i32) (result i32)
    (i32.store (i32.const 1056) (i32.const 5000))
    (i32.store (i32.const 1060) (i32.const 2))
    ;; output-field { path: list<string>, type }
    (i32.store (i32.const 5000) (i32.const 5100))
    (i32.store (i32.const 5004) (i32.const 1))
    (i32.store (i32.const 5012) (i32.const 5100))
    (i32.store (i32.const 5016) (i32.const 1))
    (i32.store (i32.const 5100) (i32.const 4096))
    (i32.store (i32.const 5104) (i32.const 5))
    (i32.const 1024))
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
