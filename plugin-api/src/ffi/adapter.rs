//! What the thunks see of an author's type: the two traits, made one.

use std::{future::Future, marker::PhantomData};

use serde_json::Value;

use super::root::Construct;
use crate::{Envelope, MessageBus, Module, ModuleMetadata, Payload, Result, SavedState, WasmModule};

/// One module behind the table, whichever trait it implements.
#[expect(missing_docs, reason = "the hooks are those of `Module`")]
pub trait Adapter: Send + Sync + Sized + 'static {
    /// [`super::root::PluginRoot::kind`].
    const KIND: u8;

    fn construct() -> Self;
    fn metadata(&self) -> ModuleMetadata;
    fn configure(&mut self, config: Value) -> impl Future<Output = Result<()>> + Send;
    fn init(&mut self, bus: MessageBus) -> impl Future<Output = Result<()>> + Send;
    fn restore_state(&mut self, state: SavedState) -> impl Future<Output = Result<()>> + Send;
    fn start(&mut self) -> impl Future<Output = Result<()>> + Send;
    fn invoke(&self, method: &str, payload: Payload) -> impl Future<Output = Result<Payload>> + Send;
    fn on_message(&self, envelope: Envelope) -> impl Future<Output = Result<()>> + Send;
    fn save_state(&self) -> impl Future<Output = Result<Option<SavedState>>> + Send;
    fn stop(&mut self) -> impl Future<Output = Result<()>> + Send;
}

macro_rules! adapter {
    ($(#[$doc:meta])* $name:ident, $trait:ident, $kind:literal, $init:ident) => {
        $(#[$doc])*
        pub struct $name<T, C>(T, PhantomData<fn() -> C>);

        impl<T: $trait, C: Construct<T> + 'static> Adapter for $name<T, C> {
            const KIND: u8 = $kind;

            fn construct() -> Self {
                Self(C::construct(), PhantomData)
            }

            fn metadata(&self) -> ModuleMetadata {
                self.0.metadata()
            }

            fn configure(&mut self, config: Value) -> impl Future<Output = Result<()>> + Send {
                self.0.configure(config)
            }

            fn init(&mut self, bus: MessageBus) -> impl Future<Output = Result<()>> + Send {
                self.0.$init(bus)
            }

            fn restore_state(&mut self, state: SavedState) -> impl Future<Output = Result<()>> + Send {
                self.0.restore_state(state)
            }

            fn start(&mut self) -> impl Future<Output = Result<()>> + Send {
                self.0.start()
            }

            fn invoke(
                &self,
                method: &str,
                payload: Payload,
            ) -> impl Future<Output = Result<Payload>> + Send {
                self.0.invoke(method, payload)
            }

            fn on_message(&self, envelope: Envelope) -> impl Future<Output = Result<()>> + Send {
                self.0.on_message(envelope)
            }

            fn save_state(&self) -> impl Future<Output = Result<Option<SavedState>>> + Send {
                self.0.save_state()
            }

            fn stop(&mut self) -> impl Future<Output = Result<()>> + Send {
                self.0.stop()
            }
        }
    };
}

adapter! {
    /// A [`Module`] that `C` constructs.
    Native, Module, 0, init
}

adapter! {
    /// A [`WasmModule`] that `C` constructs.
    Wasm, WasmModule, 1, instantiate
}
