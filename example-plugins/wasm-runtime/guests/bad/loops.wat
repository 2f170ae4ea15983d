;; Loops for ever in a call of any name but `ok`, whose length is 2.
(module
  (memory (export "memory") 1)
  (func (export "alloc") (param i32) (result i32) (i32.const 64))
  (func (export "free") (param i32 i32))
  (func (export "oxide_invoke") (param i32 i32 i32 i32) (result i64)
    (if (i32.ne (local.get 1) (i32.const 2)) (then (loop $again (br $again))))
    (i64.const 0))
)
