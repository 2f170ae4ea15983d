//! Compiles the part in C.

fn main() {
    println!("cargo:rerun-if-changed=src/part.c");
    cc::Build::new().file("src/part.c").warnings_into_errors(true).compile("part");
    // Where message queues and asynchronous I/O were before they came into the C library itself.
    println!("cargo:rustc-link-lib=rt");
}
