//! Makes the library that it needs, and says where to look for it.

use std::{env, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=src/beside.c");
    let folder = env::var("OUT_DIR").expect("cargo sets it");
    let library = Path::new(&folder).join("libbeside.so");
    let mut compiler = cc::Build::new().pic(true).get_compiler().to_command();
    let made =
        compiler.args(["-shared", "-Wl,-soname,libbeside.so", "src/beside.c", "-o"]).arg(library).status();
    assert!(made.is_ok_and(|status| status.success()), "the library does not build");
    println!("cargo:rustc-link-search=native={folder}");
    println!("cargo:rustc-link-lib=dylib=beside");
    println!("cargo:rustc-link-arg-cdylib=-Wl,-rpath,{folder}");
}
