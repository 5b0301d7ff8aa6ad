;; Logs a thousand lines of 64 KiB, and is done.
(module
  (import "pelton:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (local $lines i32)
    (memory.fill (i32.const 65536) (i32.const 0x78) (i32.const 65536))
    (local.set $lines (i32.const 1000))
    (loop $more
      (call $log (i32.const 1) (i32.const 65536) (i32.const 65536))
      (local.set $lines (i32.sub (local.get $lines) (i32.const 1)))
      (br_if $more (local.get $lines)))
    (i32.const 2048)))
