;; What it prints is a list of lists of lists, thirty deep, in which each has twice the same list below it: a few hundred
;; bytes that are two thousand million lists where somebody takes them at their word.
(module
  (import "wasi:cli/stdout@0.2.3" "get-stdout" (func $stdout (result i32)))
  (import "wasi:io/streams@0.2.3" "[method]output-stream.write" (func $write (param i32 i32 i32 i32)))
  ;; @memory
  ;; @configure
  (func $pair (param $at i32) (param $below i32)
    (i32.store (local.get $at) (local.get $below))
    (i32.store offset=4 (local.get $at) (i32.const 2)))
  (func (export "process") (param i32) (result i32)
    (local $level i32)
    (loop $next
      (call $pair
        (i32.add (i32.const 8192) (i32.mul (local.get $level) (i32.const 16)))
        (i32.add (i32.const 8208) (i32.mul (local.get $level) (i32.const 16))))
      (call $pair
        (i32.add (i32.const 8200) (i32.mul (local.get $level) (i32.const 16)))
        (i32.add (i32.const 8208) (i32.mul (local.get $level) (i32.const 16))))
      (local.set $level (i32.add (local.get $level) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $level) (i32.const 40))))
    (call $write (call $stdout) (i32.const 8192) (i32.const 2) (i32.const 4096))
    (i32.const 2048)))
