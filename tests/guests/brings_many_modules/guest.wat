;; Behaves, and brings nine hundred more modules, each of which is instantiated beside it.
(module
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
