;; Sets `customer` (JSON) and `address.city` (text).
(module
  ;; @memory
  (data (i32.const 4096) "customeraddresscity")
  (data (i32.const 4128) "\00\10\00\00\08\00\00\00\08\10\00\00\07\00\00\00\0f\10\00\00\04\00\00\00")
  (data (i32.const 4160) "\20\10\00\00\01\00\00\00\06\00\00\00\28\10\00\00\02\00\00\00\03\00\00\00")
  (data (i32.const 1056) "\40\10\00\00\02\00\00\00")
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
