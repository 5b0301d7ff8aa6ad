;; Wants an interface that nobody offers, and one of a later version.
(module
  (import "acme:hardware/gpu@1.0.0" "launch" (func $launch))
  (import "pelton:plugin/log@0.2.0" "write" (func $log))
  (memory (export "memory") 1)
  (func (export "configure"))
  (func (export "process") (param i32) (result i32) (call $launch) (call $log) (local.get 0)))
