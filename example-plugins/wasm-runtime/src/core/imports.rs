//! What a core module may import: the module `oxide`.

use oxide_plugin_api::{Error, Result, serde_json::json};
use wasmtime::{Caller, Extern, Linker, Memory, Module};

use super::broken;
use crate::{host, store::Data};

const NAMESPACE: &str = "oxide";

/// The functions that wait, and those that do not.
const WAITING: [&str; 2] = ["publish", "request"];
const OTHERS: [&str; 4] = ["fail", "log", "monotonic", "now"];

/// Whether the module imports a function that waits.
pub(super) fn waits(module: &Module) -> bool {
    module.imports().any(|import| import.module() == NAMESPACE && WAITING.contains(&import.name()))
}

/// Looks whether all that the module imports is there.
///
/// # Errors
/// The first import that is not.
pub(super) fn check(module: &Module) -> Result<()> {
    for import in module.imports() {
        let (space, name) = (import.module(), import.name());
        if space == NAMESPACE && (WAITING.contains(&name) || OTHERS.contains(&name)) {
            continue;
        }
        let why = if space.starts_with("wasi") {
            "core modules have no WASI: build the guest as a component (`wasm32-wasip2`)".to_owned()
        } else {
            let mut all = [&WAITING[..], &OTHERS].concat();
            all.sort_unstable();
            format!("core modules may import these of `{NAMESPACE}`: {}", all.join(", "))
        };
        return Err(Error::new(format_args!(
            "the guest imports `{space}.{name}`, which is not there; {why}"
        )));
    }
    Ok(())
}

/// Offers what there is.
///
/// # Errors
/// When wasmtime has no memory for it.
pub(super) fn offer(linker: &mut Linker<Data>) -> Result<()> {
    define(linker).map_err(|error| Error::new(error.root_cause()))
}

fn define(linker: &mut Linker<Data>) -> wasmtime::Result<()> {
    linker.func_wrap(NAMESPACE, "now", host::now)?;
    linker.func_wrap(NAMESPACE, "monotonic", |caller: Caller<'_, Data>| host::monotonic(caller.data()))?;
    linker.func_wrap(
        NAMESPACE,
        "log",
        |mut caller: Caller<'_, Data>, level: u32, pointer: u32, length: u32| {
            let message = text(&mut caller, (pointer, length))?;
            host::log(level, &message);
            wasmtime::Result::Ok(())
        },
    )?;
    linker.func_wrap(NAMESPACE, "fail", |mut caller: Caller<'_, Data>, pointer: u32, length: u32| {
        caller.data_mut().failure = Some(text(&mut caller, (pointer, length))?);
        wasmtime::Result::Ok(())
    })?;
    linker.func_wrap_async(NAMESPACE, "publish", |mut caller: Caller<'_, Data>, places: Three| {
        Box::new(async move {
            let [module_id, kind, payload] = texts(&mut caller, places)?;
            match host::publish(caller.data_mut(), module_id, kind, &payload).await {
                Ok(()) => wasmtime::Result::Ok(0u32),
                Err(error) => {
                    host::log(2, &format!("a message was not published: {}", host::line(&error)));
                    Ok(1)
                }
            }
        })
    })?;
    linker.func_wrap_async(NAMESPACE, "request", |mut caller: Caller<'_, Data>, places: Three| {
        Box::new(async move {
            let [module_id, method, payload] = texts(&mut caller, places)?;
            let answer = match host::request(caller.data_mut(), &module_id, &method, &payload).await {
                Ok(answer) => format!("{{\"ok\":{answer}}}"),
                Err(error) => json!({ "error": host::line(&error) }).to_string(),
            };
            give(&mut caller, answer.as_bytes()).await
        })
    })?;
    Ok(())
}

/// Pointer and length of three texts.
type Three = (u32, u32, u32, u32, u32, u32);

fn texts(caller: &mut Caller<'_, Data>, places: Three) -> wasmtime::Result<[String; 3]> {
    let (a, b, c, d, e, f) = places;
    Ok([text(caller, (a, b))?, text(caller, (c, d))?, text(caller, (e, f))?])
}

fn text(caller: &mut Caller<'_, Data>, (pointer, length): (u32, u32)) -> wasmtime::Result<String> {
    let memory = memory(caller)?;
    let (start, length) = (pointer as usize, length as usize);
    let bytes = memory.data(&*caller).get(start..start.saturating_add(length));
    let bytes = bytes.ok_or_else(|| {
        broken(format_args!("it gave the host {length} bytes at {pointer}, which is outside of its memory"))
    })?;
    Ok(String::from_utf8_lossy(bytes).into_owned())
}

/// Hands bytes to the guest, which frees them; gives pointer and length in one.
async fn give(caller: &mut Caller<'_, Data>, bytes: &[u8]) -> wasmtime::Result<i64> {
    let length = u32::try_from(bytes.len()).map_err(|_| broken("the answer does not fit into 32 bits"))?;
    let alloc = caller.get_export("alloc").and_then(Extern::into_func);
    let alloc = alloc.and_then(|alloc| alloc.typed::<u32, u32>(&*caller).ok());
    let alloc = alloc.ok_or_else(|| broken("it does not export `alloc(i32) -> i32`"))?;
    let pointer = alloc.call_async(&mut *caller, length).await?;
    let memory = memory(caller)?;
    memory.write(&mut *caller, pointer as usize, bytes).map_err(|_| {
        broken(format_args!("`alloc` gave {length} bytes at {pointer}, which is outside of its memory"))
    })?;
    Ok((u64::from(pointer) << 32 | u64::from(length)) as i64)
}

fn memory(caller: &mut Caller<'_, Data>) -> wasmtime::Result<Memory> {
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    memory.ok_or_else(|| broken("it does not export its memory, under the name `memory`"))
}
