;; Calls itself without end in `alloc`.
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32)
    (i32.wrap_i64 (call $deeper (i64.const 1))))
  (func (export "free") (param i32 i32))
  (func (export "oxide_invoke") (param i32 i32 i32 i32) (result i64) (i64.const 0))
  (func $deeper (param i64) (result i64)
    (i64.add (call $deeper (i64.add (local.get 0) (i64.const 1))) (local.get 0)))
)
