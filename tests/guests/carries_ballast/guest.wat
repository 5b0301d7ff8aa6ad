;; Behaves, and carries sixty MiB that mean nothing.
(module
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
