;; Loops for ever in `alloc`.
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (loop $again (br $again)) (i32.const 0))
  (func (export "free") (param i32 i32))
  (func (export "oxide_invoke") (param i32 i32 i32 i32) (result i64) (i64.const 0))
)
