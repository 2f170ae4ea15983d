;; The smallest guest: a core module without an import. `hello` greets whom it is given.
;;
;; The host asks for one buffer, writes the input and the method's name into it, and takes the answer out of it. There
;; is never a second one, so `alloc` has one place for it and `free` has nothing to do.
(module
  (memory (export "memory") 1)

  (data (i32.const 0) "hello")       ;; the method's name, and the greeting
  (data (i32.const 8) "hello, ")
  (global $buffer i32 (i32.const 64))

  ;; Room for the buffer, and for the greeting around what is in it.
  (func (export "alloc") (param $length i32) (result i32)
    (local $pages i32)
    (local.set $pages
      (i32.sub
        (i32.add (i32.const 2) (i32.shr_u (local.get $length) (i32.const 16)))
        (memory.size)))
    (if (i32.gt_s (local.get $pages) (i32.const 0))
      (then
        (if (i32.eq (memory.grow (local.get $pages)) (i32.const -1))
          (then unreachable))))
    (global.get $buffer))

  (func (export "free") (param i32 i32))

  (func (export "oxide_invoke")
    (param $method i32) (param $method_length i32) (param $input i32) (param $length i32) (result i64)
    (if (i32.eqz (call $is_hello (local.get $method) (local.get $method_length)))
      (then (return (i64.const -1))))  ;; there is no such method
    ;; "hello, " before it and "!" behind it
    (memory.copy (i32.add (local.get $input) (i32.const 7)) (local.get $input) (local.get $length))
    (memory.copy (local.get $input) (i32.const 8) (i32.const 7))
    (i32.store8 offset=7 (i32.add (local.get $input) (local.get $length)) (i32.const 33))
    ;; pointer in the high half, length in the low one
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $input)) (i64.const 32))
      (i64.extend_i32_u (i32.add (local.get $length) (i32.const 8)))))

  (func $is_hello (param $method i32) (param $length i32) (result i32)
    (local $at i32)
    (if (i32.ne (local.get $length) (i32.const 5)) (then (return (i32.const 0))))
    (loop $next
      (if (i32.ne
            (i32.load8_u (i32.add (local.get $method) (local.get $at)))
            (i32.load8_u (local.get $at)))
        (then (return (i32.const 0))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 5))))
    (i32.const 1)))
