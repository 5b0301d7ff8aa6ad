;; Says no, in forty million words.
(module
  ;; @memory
  (func (export "configure") (param i32 i32) (result i32)
    (drop (memory.grow (i32.const 700)))
    (memory.fill (i32.const 131072) (i32.const 0x6e) (i32.const 41943040))
    (i32.store8 (i32.const 1024) (i32.const 1))
    (i32.store (i32.const 1028) (i32.const 131072))
    (i32.store (i32.const 1032) (i32.const 41943040))
    (i32.const 1024))
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
