;; Has a memory of 100 MiB from the beginning.
(module
  (memory (export "memory") 1600)
  (func (export "alloc") (param i32) (result i32) (i32.const 64))
  (func (export "free") (param i32 i32))
  (func (export "oxide_invoke") (param i32 i32 i32 i32) (result i64) (i64.const 0))
)
