;; A guest for tests: `work` counts up to a number of millions, `count` says how often it has got there.
(module
  (memory (export "memory") 1)
  (global $done (mut i32) (i32.const 48))
  (func (export "alloc") (param i32) (result i32) (i32.const 64))
  (func (export "free") (param i32 i32))

  ;; The methods are told by their length: `work` has 4 letters, `count` has 5. The input is a digit: that many times
  ;; a hundred million.
  (func (export "oxide_invoke") (param i32) (param $method i32) (param $input i32) (param i32) (result i64)
    (local $left i64)
    (if (i32.eq (local.get $method) (i32.const 4))
      (then
        (local.set $left
          (i64.mul
            (i64.extend_i32_u (i32.sub (i32.load8_u (local.get $input)) (i32.const 48)))
            (i64.const 100000000)))
        (block $out
          (loop $next
            (br_if $out (i64.eqz (local.get $left)))
            (local.set $left (i64.sub (local.get $left) (i64.const 1)))
            (br $next)))
        (global.set $done (i32.add (global.get $done) (i32.const 1)))))
    (i32.store8 (i32.const 0) (global.get $done))
    (i64.const 1)))
