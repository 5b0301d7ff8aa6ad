;; Fails a row two million times: a failure is wider in the host than in its own memory.
(module
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (drop (memory.grow (i32.const 1000)))
    (i32.store (i32.const 2080) (i32.const 131072))
    (i32.store (i32.const 2084) (i32.const 2000000))
    (i32.const 2048)))
