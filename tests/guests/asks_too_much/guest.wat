;; Uses the log, the clock and chance.
(module
  (import "pelton:plugin/log@0.1.0" "write" (func $log (param i32 i32 i32)))
  (import "pelton:plugin/clock@0.1.0" "time" (func $time (param i32) (result i64)))
  (import "pelton:plugin/random@0.1.0" "seed" (func $seed (param i32) (result i64)))
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (drop (call $time (i32.const 0)))
    (drop (call $seed (i32.const 0)))
    (i32.const 2048)))
