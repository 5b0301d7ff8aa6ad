;; Logs a line of forty MiB, again and again.
(module
  (import "pelton:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (drop (memory.grow (i32.const 700)))
    (memory.fill (i32.const 131072) (i32.const 0x78) (i32.const 41943040))
    (loop $for-ever
      (call $log (i32.const 0) (i32.const 131072) (i32.const 41943040))
      (br $for-ever))
    (i32.const 2048)))
