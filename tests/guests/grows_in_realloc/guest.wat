;; An allocator that takes sixteen MiB more each time that it is asked for a few bytes.
(module
  (memory (export "memory") 2)
  ;; @configure
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $pages i32)
    (local.set $pages (memory.grow (i32.const 256)))
    (if (i32.eq (local.get $pages) (i32.const -1)) (then unreachable))
    (i32.mul (local.get $pages) (i32.const 65536)))
  (func (export "process") (param i32) (result i32)
    (i32.const 2048)))
