;; Grows without end, and does not care that it gets no more.
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 64))
  (func (export "free") (param i32 i32))
  (func (export "oxide_invoke") (param i32 i32 i32 i32) (result i64)
    (loop $again (drop (memory.grow (i32.const 16))) (br $again))
    (i64.const 0))
)
