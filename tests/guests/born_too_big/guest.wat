;; Wants 128 MiB before it has said a word.
(module
  (memory (export "memory") 2048)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
