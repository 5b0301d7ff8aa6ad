;; Spends its time in single instructions over all of its memory, which nothing interrupts half way.
(module
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (drop (memory.grow (i32.const 900)))
    (loop $for-ever
      (memory.fill (i32.const 65536) (i32.const 7) (i32.const 58720256))
      (br $for-ever))
    (i32.const 2048)))
