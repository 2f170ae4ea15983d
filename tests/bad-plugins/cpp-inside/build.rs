//! Compiles the part in C++.

fn main() {
    println!("cargo:rerun-if-changed=src/part.cc");
    cc::Build::new().cpp(true).file("src/part.cc").warnings_into_errors(true).compile("part");
}
