;; An allocator that hands out room that is not there.
(module
  (memory (export "memory") 2)
  (global $configured (mut i32) (i32.const 0))
  (func (export "configure") (param i32 i32) (result i32)
    (global.set $configured (i32.const 1))
    (i32.const 1024))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (select (i32.const 0x7fff0000) (i32.const 65536) (global.get $configured)))
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
