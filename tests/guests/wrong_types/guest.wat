;; The right names with other types.
(module
  (memory (export "memory") 1)
  (func (export "configure"))
  (func (export "process") (param i32) (result i32) (local.get 0)))
