;; An allocator that hands out the same room again and again: the tables of the batch lie over each other, and the room
;; for the answer among them. It harms its own input and nobody else.
(module
  (memory (export "memory") 2)
  ;; @configure
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.const 65536))
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
