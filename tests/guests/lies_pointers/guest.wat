;; Answers with a list that lies outside of its memory.
(module
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (i32.store (i32.const 2064) (i32.const 0x7fff0000))
    (i32.store (i32.const 2068) (i32.const 1024))
    (i32.const 2048)))
