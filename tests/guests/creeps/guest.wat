;; Takes four MiB more with each batch, and gives nothing back.
(module
  ;; @memory
  ;; @configure
  (func (export "process") (param i32) (result i32)
    (local $pages i32)
    (local.set $pages (memory.grow (i32.const 64)))
    (if (i32.eq (local.get $pages) (i32.const -1)) (then unreachable))
    (memory.fill (i32.mul (local.get $pages) (i32.const 65536)) (i32.const 1) (i32.const 4194304))
    (i32.const 2048)))
