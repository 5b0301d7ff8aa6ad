;; Answers `error.fatal` with a message of forty MiB, which would go into every dead letter.
(module
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (drop (memory.grow (i32.const 700)))
    (memory.fill (i32.const 131072) (i32.const 0x6e) (i32.const 41943040))
    (i32.store8 (i32.const 2048) (i32.const 1))
    (i32.store8 (i32.const 2052) (i32.const 1))
    (i32.store (i32.const 2056) (i32.const 131072))
    (i32.store (i32.const 2060) (i32.const 41943040))
    (i32.const 2048)))
