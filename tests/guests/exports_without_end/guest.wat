;; Exports two thousand functions beside what it must: an error that names them all would never end.
(module
  ;; @memory
  ;; @configure
  @times 2000 «(func (export "extra{i}"))
  »
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
