;; Little code that costs a compiler much: a loop around tens of thousands of small branches, through all of which tens of
;; thousands of variables stay alive.
(module
  ;; @memory
  ;; @configure
  (func $knot (param $way i32) (result i32)
    (local @times 20000 «i32 »)
    (loop $around
      @times 20000 «(block (br_if 0 (local.get $way)) (local.set {next} (i32.add (local.get {next}) (local.get {i}))))
      »
      (br_if $around (local.get 7)))
    (local.get 9))
  (func (export "process") (param i32) (result i32)
    (drop (call $knot (i32.const 1)))
    (i32.const 2048)))
