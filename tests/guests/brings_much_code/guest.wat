;; Brings six thousand functions, six MiB of code, none of which it uses.
(module
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
