;; Asks for the time of the row after the last.
(module
  (import "pelton:plugin/clock@0.1.0" "time" (func $time (param i32) (result i64)))
  ;; @memory
  ;; @configure
  (func (export "process") (param $batch i32) (result i32)
    (drop (call $time (i32.load (local.get $batch))))
    (i32.const 2048)))
