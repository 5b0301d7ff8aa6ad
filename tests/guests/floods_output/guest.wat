;; Answers with eight MiB.
(module
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (drop (memory.grow (i32.const 140)))
    (i32.store (i32.const 2064) (i32.const 65536))
    (i32.store (i32.const 2068) (i32.const 8388608))
    (i32.const 2048)))
