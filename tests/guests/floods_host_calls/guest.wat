;; Calls the host without end: the time is spent outside of it.
(module
  (import "pelton:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (memory.fill (i32.const 65536) (i32.const 0x78) (i32.const 60000))
    (loop $for-ever
      (call $log (i32.const 0) (i32.const 65536) (i32.const 60000))
      (br $for-ever))
    (i32.const 2048)))
