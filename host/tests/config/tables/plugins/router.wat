;; Reads `order_id`, and routes to `alerts` and `audit`.
(module
  ;; @memory
  (data (i32.const 4096) "alertsaudit")
  (data (i32.const 4128) "\00\10\00\00\06\00\00\00\06\10\00\00\05\00\00\00")
  (data (i32.const 4160) "\60\10\00\00\08\00\00\00")
  (data (i32.const 4192) "order_id")
  (data (i32.const 4224) "\40\10\00\00\01\00\00\00\03\00\00\00")
  (data (i32.const 1040) "\20\10\00\00\02\00\00\00")
  (data (i32.const 1048) "\80\10\00\00\01\00\00\00")
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
