;; The example plugin `echo` as a core module: `echo` gives back what it was given, `upper` does so in capitals (of
;; ASCII). Everything stays in the buffer that the host wrote.
(module
  (memory (export "memory") 1)

  (data (i32.const 0) "echo")
  (data (i32.const 8) "upper")
  (data (i32.const 16)
    "{\"id\":\"echo\",\"name\":\"Echo\",\"version\":\"0.1.0\",\"description\":\"Answers what it was sent\"}")
  (global $buffer i32 (i32.const 256))

  (func (export "oxide_metadata") (result i64)
    (i64.or (i64.shl (i64.const 16) (i64.const 32)) (i64.const 86)))

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
    (if (call $is (local.get $method) (local.get $method_length) (i32.const 0) (i32.const 4))
      (then (return (call $pack (local.get $input) (local.get $length)))))
    (if (call $is (local.get $method) (local.get $method_length) (i32.const 8) (i32.const 5))
      (then
        (call $raise (local.get $input) (local.get $length))
        (return (call $pack (local.get $input) (local.get $length)))))
    (i64.const -1))

  (func $raise (param $at i32) (param $length i32)
    (local $end i32)
    (local $byte i32)
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (block $done
      (loop $next
        (br_if $done (i32.eq (local.get $at) (local.get $end)))
        (local.set $byte (i32.load8_u (local.get $at)))
        (if (i32.lt_u (i32.sub (local.get $byte) (i32.const 97)) (i32.const 26))
          (then (i32.store8 (local.get $at) (i32.sub (local.get $byte) (i32.const 32)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next))))

  (func $pack (param $pointer i32) (param $length i32) (result i64)
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $pointer)) (i64.const 32))
      (i64.extend_i32_u (local.get $length))))

  ;; Whether the two texts are the same.
  (func $is (param $a i32) (param $a_length i32) (param $b i32) (param $b_length i32) (result i32)
    (local $at i32)
    (if (i32.ne (local.get $a_length) (local.get $b_length)) (then (return (i32.const 0))))
    (loop $next
      (if (i32.ne
            (i32.load8_u (i32.add (local.get $a) (local.get $at)))
            (i32.load8_u (i32.add (local.get $b) (local.get $at))))
        (then (return (i32.const 0))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $at) (local.get $b_length))))
    (i32.const 1)))
