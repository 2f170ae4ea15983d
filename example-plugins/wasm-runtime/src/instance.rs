//! A guest and its instances, whatever their kind.

use oxide_plugin_api::{Envelope, ModuleMetadata, Payload, Result, SavedState};
use wasmtime::{Engine, Store};

use crate::{
    call::{Call, Said},
    compiled::Compiled,
    component,
    config::Limits,
    core,
    store::Data,
};

/// A guest that was compiled and whose imports are there.
pub(crate) enum Guest {
    Core(core::Guest),
    Component(component::Guest),
}

/// An instance of it.
pub(crate) enum Instance {
    Core(Box<core::Instance>),
    Component(Box<component::Instance>),
}

/// What a hook or a call came to: wasmtime's error when the instance cannot go on, else what the guest said.
pub(crate) type Ended<T> = wasmtime::Result<Result<T>>;

impl Guest {
    /// Gives the guest what it imports. `stem` is the id of a guest that cannot say one.
    ///
    /// # Errors
    /// When it imports what is not there, or exports too little.
    pub(crate) fn link(engine: &Engine, compiled: &Compiled, stem: &str, limits: &Limits) -> Result<Self> {
        Ok(match compiled {
            Compiled::Core(module) => Self::Core(core::Guest::link(engine, module, stem, limits.stack)?),
            Compiled::Component(component) => {
                Self::Component(component::Guest::link(engine, component, &limits.allow)?)
            }
        })
    }

    /// A fresh instance in `store`; or the store, and why there is none.
    pub(crate) async fn instantiate(
        &self,
        store: Store<Data>,
    ) -> std::result::Result<Instance, (Store<Data>, wasmtime::Error)> {
        match self {
            Self::Core(guest) => guest.instantiate(store).await.map(|one| Instance::Core(Box::new(one))),
            Self::Component(guest) => {
                guest.instantiate(store).await.map(|one| Instance::Component(Box::new(one)))
            }
        }
    }
}

impl Instance {
    /// Answers a call, and gives itself back.
    pub(crate) fn called(self, method: &str, payload: Payload) -> Call {
        match self {
            Self::Core(instance) => instance.called(method, payload),
            Self::Component(instance) => instance.called(method, payload),
        }
    }

    /// What the last call came to, once.
    pub(crate) fn take_ended(&mut self) -> Option<Ended<Said>> {
        match self {
            Self::Core(instance) => instance.ended.take(),
            Self::Component(instance) => instance.ended.take(),
        }
    }
}

/// Puts a reply into the buffer that the call's argument came in: the caller made it, and gets it back as it is. A small
/// reply does not keep a large buffer.
pub(crate) fn fill(argument: &mut Payload, reply: &[u8]) {
    const SMALL: usize = 4 << 10;
    if argument.len() <= SMALL || argument.len() / 4 <= reply.len() {
        argument.refill(reply);
    } else {
        *argument = reply.into();
    }
}

/// Writes the hooks of both kinds.
macro_rules! either {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        impl Instance {
            $(pub(crate) async fn $name(&mut self, $($argument: $type),*) -> Ended<$answer> {
                match self {
                    Self::Core(instance) => instance.$name($($argument),*).await,
                    Self::Component(instance) => instance.$name($($argument),*).await,
                }
            })*

            pub(crate) fn store(&mut self) -> &mut Store<Data> {
                match self {
                    Self::Core(instance) => &mut instance.store,
                    Self::Component(instance) => &mut instance.store,
                }
            }
        }
    };
}

either! {
    metadata() -> ModuleMetadata;
    configure(config: &str) -> ();
    restore_state(state: &SavedState) -> ();
    start() -> ();
    on_message(envelope: &Envelope) -> ();
    save_state() -> Option<SavedState>;
    stop() -> ();
}
