;; Asks for its standard output without end and gives none back: each handle is memory of the host's.
(module
  (import "wasi:cli/stdout@0.2.3" "get-stdout" (func $stdout (result i32)))
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (loop $for-ever
      (drop (call $stdout))
      (br $for-ever))
    (i32.const 2048)))
