;; Gives back a handle that it was never given.
(module
  (import "wasi:io/streams@0.2.3" "[resource-drop]output-stream" (func $drop (param i32)))
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (call $drop (i32.const 7))
    (i32.const 2048)))
