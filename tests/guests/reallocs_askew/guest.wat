;; An allocator that does not keep to the alignment that is asked for.
(module
  (memory (export "memory") 2)
  ;; @configure
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 65537))
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
