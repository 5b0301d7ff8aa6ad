;; Wants a table of ten million functions from the start.
(module
  ;; @memory
  ;; @configure
  (table 10000000 funcref)
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
