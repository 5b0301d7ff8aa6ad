;; Takes most of its memory and keeps it, within its limit.
(module
  ;; @memory
  ;; @configure
  (global $batches (mut i32) (i32.const 0))
  (func (export "process") (param i32) (result i32)
    (drop (memory.grow (i32.const 900)))
    (if (global.get $batches) (then unreachable))
    (global.set $batches (i32.const 1))
    (i32.const 2048)))
