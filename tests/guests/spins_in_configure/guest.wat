;; Never gets as far as a batch.
(module
  ;; @memory
  (func (export "configure") (param i32 i32) (result i32)
    (loop $for-ever (br $for-ever))
    (i32.const 1024))
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
