;; Never comes back from its start function, which runs before anything is asked of it.
(module
  ;; @memory
  ;; @configure
  (func $start (loop $for-ever (br $for-ever)))
  (start $start)
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
