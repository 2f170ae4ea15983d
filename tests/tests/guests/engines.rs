//! Files that are no guests, and engines that are none or are not there.

use oxide_host::{Host, RefusalReason, error::KernelError};
use oxide_tests::{
    Guest,
    guest::{core, with_engine},
    misbehave::changed,
    plugin, told,
};
use serde_json::json;

#[tokio::test]
async fn without_an_engine_it_is_said_where_it_was_looked_for() {
    let host = Host::builder().wasm_engine("/nowhere/libengine.so").build().unwrap();
    let error = host.load(&Guest::new("hello", "1.0.0")).await.unwrap_err();
    let KernelError::NoWasmEngine { looked } = &error else { panic!("{error:?}") };
    assert_eq!(looked, &["/nowhere/libengine.so"].map(std::path::PathBuf::from));
    insta::assert_snapshot!(told(&error), @r"
    error[no_wasm_engine]: there is no engine for WASM guests at `/nowhere/libengine.so`
    hint: `scripts/wasm-runtime.sh build`, in the host's sources, builds it; `wasm_engine` in the host's configuration says where it is
    ");
    assert!(host.list().await.is_empty());
}

#[tokio::test]
async fn what_is_no_engine_is_refused_before_it_is_opened() {
    // Would its constructor run, it would be its panic that we hear of.
    let native = oxide_tests::ordered(&json!({ "constructor": "panic" }));
    let text = Guest::of("libengine.so", b"not a library");
    let guest = Guest::new("hello", "1.0.0");
    let mut tellings = Vec::new();
    for engine in [native.as_ref(), text.as_ref(), guest.as_ref(), plugin("echo").parent().unwrap()] {
        let host = Host::builder().wasm_engine(engine).build().unwrap();
        let error = host.load(&guest).await.unwrap_err();
        assert!(error.refusal().is_some(), "{error:?}");
        tellings.push(told(&error));
        assert!(host.list().await.is_empty());
    }
    insta::assert_snapshot!(tellings.join("\n\n"), @r#"
    error[not_an_engine]: `libmisbehaving.so` is no engine for WASM guests: its kind is `native`, expected `wasm`
    hint: name the library of an engine as `wasm_engine`, or leave it out and the host looks for one

    error[not_a_library]: the WASM engine `libengine.so` is a text file, not a dynamic library
    hint: name the dynamic library that cargo built from a crate with `crate-type = ["cdylib"]`: here its name ends in `.so`

    error[not_a_library]: the WASM engine `hello.wasm` is a WebAssembly module, not a dynamic library
    hint: name the dynamic library that cargo built from a crate with `crate-type = ["cdylib"]`: here its name ends in `.so`

    error[not_a_file]: the WASM engine `debug` is a folder, not a file
    hint: name the plugin's library file itself
    "#);
}

#[tokio::test]
async fn a_file_that_is_no_whole_guest_needs_no_engine_to_be_refused() {
    let host = Host::builder().wasm_engine("/nowhere/libengine.so").build().unwrap();
    let whole = core(&json!({ "id": "hello", "version": "1.0.0" }));
    let cut = Guest::of("hello.wasm", &whole[..whole.len() - 1]);
    let error = host.load(&cut).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalReason::Damaged), "{error:?}");
    let error = host.load(&Guest::of("hello.wat", b"(module)")).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalReason::NotALibrary), "{error:?}");
    let error = host.load(&Guest::of("hello.wasm", b"\0asm\x09\0\0\0")).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalReason::WasmVersion), "{error:?}");
}

#[tokio::test]
async fn what_a_guest_is_called_does_not_matter() {
    let host = with_engine().build().unwrap();
    let guest = Guest::of("libhello.so", &core(&json!({ "id": "hello", "version": "1.0.0" })));
    assert_eq!(host.load(&guest).await.unwrap().id, "hello");
    let library = Guest::of("echo.wasm", &std::fs::read(plugin("echo")).unwrap());
    assert_eq!(host.load(&library).await.unwrap().engine, None);
}

#[tokio::test]
async fn an_engine_whose_tables_are_bent_is_refused_by_its_own_name() {
    let mut bytes = std::fs::read(plugin("engine")).unwrap();
    // The mark of abi_stable's header, which only the opened library shows.
    let mark = b"abi stable library";
    let places: Vec<usize> =
        (0..bytes.len() - mark.len()).filter(|at| bytes[*at..].starts_with(mark)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] = b'x';
    }
    let engine = changed("engine", &bytes);
    let host = Host::builder().wasm_engine(engine.as_ref()).build().unwrap();
    let error = host.load(&Guest::new("hello", "1.0.0")).await.unwrap_err();
    assert_eq!(error.refusal(), Some(RefusalReason::LayoutMismatch), "{error:?}");
    assert!(error.to_string().starts_with("`libengine.so` "), "{error}");
}
