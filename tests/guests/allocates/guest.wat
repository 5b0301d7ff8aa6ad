;; Asks for memory until it is denied, and aborts as an allocator does.
(module
  ;; @memory
  ;; @configure
  (func $out-of-memory unreachable)
  (func (export "process") (param i32) (result i32)
    (loop $more
      (br_if $more (i32.ne (i32.const -1) (memory.grow (i32.const 16)))))
    (call $out-of-memory)
    (i32.const 2048)))
