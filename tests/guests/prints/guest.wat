;; Built with a whole WASI under it, as `wasm32-wasip2` does; writes to its standard output and behaves.
(module
  (import "wasi:cli/stdout@0.2.3" "get-stdout" (func $stdout (result i32)))
  (import "wasi:io/streams@0.2.3" "[method]output-stream.blocking-write-and-flush" (func $write (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.3" "[resource-drop]output-stream" (func $drop (param i32)))
  (import "wasi:random/insecure-seed@0.2.3" "insecure-seed" (func $seed (param i32)))
  (import "wasi:filesystem/preopens@0.2.3" "get-directories" (func $directories (param i32)))
  ;; @memory
  ;; @configure
  (data (i32.const 4096) "one line\0aanother")
  (func (export "process") (param i32) (result i32)
    (local $stream i32)
    (call $seed (i32.const 8192))
    (call $directories (i32.const 8192))
    (local.set $stream (call $stdout))
    (call $write (local.get $stream) (i32.const 4096) (i32.const 16) (i32.const 8192))
    (call $drop (local.get $stream))
    (i32.const 2048)))
