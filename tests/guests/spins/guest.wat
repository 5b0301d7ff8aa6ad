;; Never comes back.
(module
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (loop $for-ever (br $for-ever))
    (i32.const 2048)))
