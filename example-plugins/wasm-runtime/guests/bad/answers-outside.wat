;; Answers with bytes that begin in its memory and end outside.
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 64))
  (func (export "free") (param i32 i32))
  (func (export "oxide_invoke") (param i32 i32 i32 i32) (result i64)
    (i64.or (i64.shl (i64.const 65535) (i64.const 32)) (i64.const 2)))
)
