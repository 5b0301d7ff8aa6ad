;; Behaves, and brings a module with forty MiB of data that it never uses.
(module
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
