;; Does not survive its own configuration.
(module
  ;; @memory
  (func $read_configuration unreachable)
  (func (export "configure") (param i32 i32) (result i32)
    (call $read_configuration)
    (i32.const 1024))
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
