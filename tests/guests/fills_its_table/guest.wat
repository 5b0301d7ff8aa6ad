;; Makes its table of functions larger and larger: each cell is memory of the host's.
(module
  ;; @memory
  ;; @configure
  (table $functions 1 funcref)
  (func $out-of-table unreachable)
  (func (export "process") (param i32) (result i32)
    (loop $more
      (if (i32.eq (i32.const -1) (table.grow $functions (ref.null func) (i32.const 10000)))
        (then (call $out-of-table)))
      (br $more))
    (i32.const 2048)))
