;; A component, but no transform.
(module
  (memory (export "memory") 1)
  (func (export "run")))
