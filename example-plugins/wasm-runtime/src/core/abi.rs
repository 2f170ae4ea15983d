//! The small ABI: what a core module exports, and how bytes go in and out.

use std::pin::pin;

use oxide_plugin_api::{Payload, SavedState};
use wasmtime::{Extern, Instance, Memory, Result, Store, TypedFunc, WasmParams, WasmResults};

use super::broken;
use crate::{
    engine::HOST_STACK,
    instance::fill,
    store::{self, Data},
};

/// Pointer and length.
type Place = (u32, u32);

/// What `oxide_invoke` takes.
type Arguments = (u32, u32, u32, u32);

/// What an exported function gave; `T` is what its bytes were copied to.
pub(crate) enum Outcome<T = Vec<u8>> {
    Bytes(T),
    /// -1: there is no such method, or no state.
    Nothing,
    /// -2: it failed.
    Failed,
}

/// The largest buffer that is kept for the next call.
const KEPT: u32 = 64 << 10;

/// The smallest one that is asked for, so that calls of like sizes find one that fits.
const LEAST: u32 = 256;

/// An instance's exports.
pub(crate) struct Abi {
    instance: Instance,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    free: TypedFunc<(u32, u32), ()>,
    invoke: TypedFunc<Arguments, i64>,
    /// What the last call's bytes were written to: pointer and length, as `alloc` gave it.
    buffer: (u32, u32),
    /// What the next call is given.
    arguments: Arguments,
    only_async: bool,
    /// How much of the stack the guest may use.
    stack: usize,
}

impl Abi {
    /// Finds what a guest must export.
    ///
    /// # Errors
    /// When something is missing, or of another type.
    pub(crate) fn of(
        instance: &Instance,
        store: &mut Store<Data>,
        only_async: bool,
        stack: usize,
    ) -> Result<Self> {
        let memory = match instance.get_export(&mut *store, "memory") {
            Some(Extern::Memory(memory)) if !memory.ty(&*store).is_64() => memory,
            Some(_) => return Err(broken("its export `memory` is not a 32-bit memory")),
            None => return Err(broken("it does not export its memory, under the name `memory`")),
        };
        Ok(Self {
            memory,
            alloc: function(instance, store, "alloc", "(i32) -> i32")?,
            free: function(instance, store, "free", "(i32, i32)")?,
            invoke: function(instance, store, "oxide_invoke", "(i32, i32, i32, i32) -> i64")?,
            instance: *instance,
            buffer: (0, 0),
            arguments: (0, 0, 0, 0),
            only_async,
            stack,
        })
    }

    /// Writes what the next call is given, when the buffer is large enough; tells whether it is.
    pub(crate) fn give(&mut self, store: &mut Store<Data>, method: &str, input: &[u8]) -> Result<bool> {
        let length = input.len().saturating_add(method.len());
        if length > self.buffer.1 as usize {
            return Ok(false);
        }
        let given = self.copy_in(store, [input, method.as_bytes()])?;
        self.given(given);
        Ok(true)
    }

    /// Writes what the next call is given.
    pub(crate) async fn give_all(
        &mut self,
        store: &mut Store<Data>,
        method: &str,
        input: &[u8],
    ) -> Result<()> {
        let given = self.write(store, [input, method.as_bytes()]).await?;
        self.given(given);
        Ok(())
    }

    fn given(&mut self, [input, method]: [(u32, u32); 2]) {
        self.arguments = (method.0, method.1, input.0, input.1);
    }

    /// Answers the call that was given. The answer goes into the buffer that the input came in, where that makes sense.
    pub(crate) async fn invoke(
        &mut self,
        store: &mut Store<Data>,
        reply: &mut Payload,
    ) -> Result<Outcome<()>> {
        // In its place at once: passing a future on moves it, and this one is large.
        let packed = pin!(self.invoke.call_async(&mut *store, self.arguments)).await?;
        let (outcome, answer) = self.copy_out(store, "oxide_invoke", packed, |bytes| fill(reply, bytes))?;
        self.release(store, answer).await?;
        Ok(outcome)
    }

    /// Calls a hook that takes no bytes, or one lot of them. `None` when the guest has no such hook.
    pub(crate) async fn hook(
        &mut self,
        store: &mut Store<Data>,
        name: &'static str,
        arguments: &[&[u8]],
    ) -> Result<Option<Outcome>> {
        if self.instance.get_export(&mut *store, name).is_none() {
            return Ok(None);
        }
        let packed = match arguments {
            [] => {
                let hook: TypedFunc<(), i64> = function(&self.instance, store, name, "() -> i64")?;
                hook.call_async(&mut *store, ()).await?
            }
            [bytes, ..] => {
                let hook: TypedFunc<(u32, u32), i64> =
                    function(&self.instance, store, name, "(i32, i32) -> i64")?;
                let [bytes, _] = self.write(store, [bytes, &[]]).await?;
                hook.call_async(&mut *store, bytes).await?
            }
        };
        self.outcome(store, name, packed).await.map(Some)
    }

    /// Calls `oxide_restore_state(version, pointer, length)`, if the guest has it.
    pub(crate) async fn restore(
        &mut self,
        store: &mut Store<Data>,
        state: &SavedState,
    ) -> Result<Option<Outcome>> {
        const NAME: &str = "oxide_restore_state";
        if self.instance.get_export(&mut *store, NAME).is_none() {
            return Ok(None);
        }
        let hook: TypedFunc<(u32, u32, u32), i64> =
            function(&self.instance, store, NAME, "(i32, i32, i32) -> i64")?;
        let [bytes, _] = self.write(store, [&state.bytes, &[]]).await?;
        let packed = hook.call_async(&mut *store, (state.version, bytes.0, bytes.1)).await?;
        self.outcome(store, NAME, packed).await.map(Some)
    }

    /// The number for the format of the state; 0 for a guest that does not say.
    pub(crate) async fn state_version(&mut self, store: &mut Store<Data>) -> Result<u32> {
        const NAME: &str = "oxide_state_version";
        if self.instance.get_export(&mut *store, NAME).is_none() {
            return Ok(0);
        }
        let hook: TypedFunc<(), u32> = function(&self.instance, store, NAME, "() -> i32")?;
        hook.call_async(&mut *store, ()).await
    }

    /// Writes both into the guest's memory, in a buffer that is large enough.
    async fn write(&mut self, store: &mut Store<Data>, parts: [&[u8]; 2]) -> Result<[(u32, u32); 2]> {
        let length = parts[0].len().checked_add(parts[1].len()).and_then(|sum| u32::try_from(sum).ok());
        let length = length.ok_or_else(|| broken("what it is to be given does not fit into 32 bits"))?;
        if length > self.buffer.1 {
            self.forget(store).await?;
            let length = length.max(LEAST);
            self.buffer = (self.call(store, &self.alloc, length).await?, length);
        }
        self.copy_in(store, parts)
    }

    /// Copies both, one after the other, into the buffer, in which they fit; gives pointer and length of each.
    fn copy_in(&self, store: &mut Store<Data>, parts: [&[u8]; 2]) -> Result<[(u32, u32); 2]> {
        let (pointer, capacity) = self.buffer;
        let [first, second] = parts.map(|part| part.len() as u32);
        let room = range(pointer, first + second)
            .and_then(|range| self.memory.data_mut(&mut *store).get_mut(range))
            .ok_or_else(|| {
                broken(format_args!(
                    "`alloc` gave {capacity} bytes at {pointer}, which is outside of its memory"
                ))
            })?;
        let (one, other) = room.split_at_mut(parts[0].len());
        one.copy_from_slice(parts[0]);
        other.copy_from_slice(parts[1]);
        Ok([(pointer, first), (pointer.wrapping_add(first), second)])
    }

    /// Frees the buffer.
    async fn forget(&mut self, store: &mut Store<Data>) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        match buffer.1 {
            0 => Ok(()),
            _ => self.call(store, &self.free, buffer).await,
        }
    }

    /// What a function's result means; its bytes are copied, and freed.
    async fn outcome(&mut self, store: &mut Store<Data>, name: &str, packed: i64) -> Result<Outcome> {
        let (outcome, answer) = self.copy_out(store, name, packed, <[u8]>::to_vec)?;
        self.release(store, answer).await?;
        Ok(outcome)
    }

    /// Copies what a function gave; tells what of it is to be freed, which is nothing when it lies in the buffer.
    fn copy_out<T>(
        &self,
        store: &Store<Data>,
        name: &str,
        packed: i64,
        copy: impl FnOnce(&[u8]) -> T,
    ) -> Result<(Outcome<T>, Option<Place>)> {
        // Neither can be a pointer and a length: the end would be beyond any 32-bit memory.
        match packed {
            -1 => return Ok((Outcome::Nothing, None)),
            -2 => return Ok((Outcome::Failed, None)),
            _ => {}
        }
        let [pointer, length] = [(packed as u64 >> 32) as u32, packed as u32];
        if length == 0 {
            return Ok((Outcome::Bytes(copy(&[])), None));
        }
        let bytes = range(pointer, length).and_then(|range| self.memory.data(store).get(range));
        let Some(bytes) = bytes else {
            return Err(broken(format_args!(
                "`{name}` gave {length} bytes at {pointer}, which is outside of its memory"
            )));
        };
        let buffer = self.buffer.0..self.buffer.0.saturating_add(self.buffer.1);
        let answer = (!buffer.contains(&pointer)).then_some((pointer, length));
        Ok((Outcome::Bytes(copy(bytes)), answer))
    }

    /// Frees an answer, and the buffer when it is a large one.
    async fn release(&mut self, store: &mut Store<Data>, answer: Option<(u32, u32)>) -> Result<()> {
        if let Some(answer) = answer {
            self.call(store, &self.free, answer).await?;
        }
        if self.buffer.1 > KEPT {
            self.forget(store).await?;
        }
        Ok(())
    }

    /// Calls one of the small functions; on this very stack where the guest can do without one of its own.
    async fn call<P, R>(
        &self,
        store: &mut Store<Data>,
        function: &TypedFunc<P, R>,
        parameters: P,
    ) -> Result<R>
    where
        P: WasmParams + Send + Sync,
        R: WasmResults + Send + Sync,
    {
        if self.only_async || !fits_here(self.stack) {
            return Box::pin(function.call_async(&mut *store, parameters)).await;
        }
        store::suspends(store, false);
        let result = function.call(&mut *store, parameters);
        store::suspends(store, true);
        result
    }
}

/// Whether a guest that may use `stack` bytes of it can be run on the stack of this thread, instead of one of its own:
/// wasmtime holds it to the former, whatever there is of the latter.
fn fits_here(stack: usize) -> bool {
    stacker::remaining_stack().is_some_and(|left| left > stack + HOST_STACK)
}

fn range(pointer: u32, length: u32) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(pointer).ok()?;
    Some(start..start.checked_add(usize::try_from(length).ok()?)?)
}

fn function<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    store: &mut Store<Data>,
    name: &str,
    expected: &str,
) -> Result<TypedFunc<P, R>> {
    let Some(export) = instance.get_export(&mut *store, name) else {
        return Err(broken(format_args!("it does not export `{name}{expected}`")));
    };
    let function = export.into_func().and_then(|function| function.typed(&*store).ok());
    function.ok_or_else(|| broken(format_args!("its export `{name}` has another type than {expected}")))
}
