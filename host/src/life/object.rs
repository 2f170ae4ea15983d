//! A generation's object: a foreign one in a library, or one of the host program's own. Both have the same
//! hooks.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use oxide_plugin_api::{Envelope, Error, Payload};
use tokio::{
    runtime::Handle,
    sync::{Notify, RwLock},
};

use crate::{
    boundary::{
        frames::{self, Frame},
        hooks::{HookEnd, Saved},
        lend::BoxFuture,
        module::ForeignModule,
    },
    bus::MessageBus,
    error::{KernelError, Result},
    module::AnyModule,
};

/// What a generation consists of, apart from its bookkeeping.
pub(crate) enum Object {
    Foreign(ForeignModule),
    InProcess(InProcess),
}

/// A module of the host program's own.
pub(crate) struct InProcess {
    /// `None` once it has been dropped. The lock is free whenever the gate and the lease are kept to; it is
    /// there so that a mistake of ours is an error and not two `&mut`.
    module: Arc<RwLock<Option<AnyModule>>>,
    frame: Frame,
    cancel: Arc<CancelCalls>,
}

/// Tells the calls that wait to end.
#[derive(Default)]
struct CancelCalls {
    told: Notify,
    /// Also for those that begin to wait from now on, until `reopen`.
    cancelled: AtomicBool,
    /// How many have ended because of it.
    ended: AtomicU64,
}

impl InProcess {
    pub(crate) fn new(module: AnyModule, frame: Frame) -> Self {
        Self { module: Arc::new(RwLock::new(Some(module))), frame, cancel: Arc::default() }
    }

    /// Ends the calls that wait, when their callers poll them.
    pub(crate) fn cancel_calls(&self) {
        self.cancel.cancelled.store(true, SeqCst);
        self.cancel.told.notify_waiters();
    }

    /// Calls may wait again, because the gate is about to be opened.
    pub(crate) fn reopen(&self) {
        self.cancel.cancelled.store(false, SeqCst);
    }

    /// How many calls `cancel_calls` has ended since this was last asked.
    pub(crate) fn take_cancelled(&self) -> u64 {
        self.cancel.ended.swap(0, SeqCst)
    }

    /// One call, to be polled by its caller.
    pub(crate) fn invoke(
        &self,
        method: String,
        payload: Payload,
        frame: Frame,
    ) -> BoxFuture<Result<Payload>> {
        let module = self.module.clone().try_read_owned();
        let cancel = self.cancel.clone();
        let call = async move {
            let told = async {
                let told = cancel.told.notified();
                if !cancel.cancelled.load(SeqCst) {
                    told.await;
                }
            };
            let module = module.map_err(|_| KernelError::new("the module is being changed"))?;
            let Some(module) = &*module else { return Err(KernelError::new("the module is gone")) };
            tokio::select! {
                biased;
                answer = module.invoke(&method, payload) => answer,
                () = told => {
                    cancel.ended.fetch_add(1, SeqCst);
                    Err(KernelError::Cancelled { module: String::new(), method: String::new() })
                }
            }
        };
        Box::pin(Within { frame, runtime: None, future: Box::pin(call) })
    }

    fn on_message(&self, envelope: Envelope, runtime: Option<Handle>) -> BoxFuture<HookEnd<Payload>> {
        let module = self.module.clone().try_read_owned();
        let hook = async move {
            match module.as_deref() {
                Ok(Some(module)) => module.on_message(envelope).await,
                _ => Err(KernelError::new("the module is being changed")),
            }
        };
        self.hook(runtime, hook)
    }

    /// `limit` bounds the state's bytes.
    fn save_state(&self, limit: usize, runtime: Option<Handle>) -> BoxFuture<HookEnd<Saved>> {
        let module = self.module.clone().try_read_owned();
        let save = async move {
            let saved = match module.as_deref() {
                Ok(Some(module)) => module.save_state().await,
                _ => Err(KernelError::new("the module is being changed")),
            };
            match saved {
                Ok(None) => HookEnd::Ok(Saved::Nothing),
                Ok(Some(state)) if state.bytes.len() > limit => {
                    HookEnd::Ok(Saved::TooLarge(state.bytes.len()))
                }
                Ok(Some(state)) => HookEnd::Ok(Saved::State(state)),
                Err(error) => HookEnd::Failed(text_of(&error)),
            }
        };
        Box::pin(Within { frame: self.frame, runtime, future: Box::pin(save) })
    }

    fn exclusive<F>(
        &self,
        runtime: Option<Handle>,
        hook: impl FnOnce(tokio::sync::OwnedRwLockMappedWriteGuard<Option<AnyModule>, AnyModule>) -> F,
    ) -> BoxFuture<HookEnd<Payload>>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let guard = self
            .module
            .clone()
            .try_write_owned()
            .ok()
            .and_then(|guard| tokio::sync::OwnedRwLockWriteGuard::try_map(guard, Option::as_mut).ok());
        match guard {
            Some(guard) => self.hook(runtime, hook(guard)),
            None => Box::pin(async {
                HookEnd::Failed(Error::new("the module is still held by a call or an earlier hook"))
            }),
        }
    }

    fn hook(
        &self,
        runtime: Option<Handle>,
        hook: impl Future<Output = Result<()>> + Send + 'static,
    ) -> BoxFuture<HookEnd<Payload>> {
        let end = async move {
            match hook.await {
                Ok(()) => HookEnd::Ok(Payload::empty()),
                Err(error) => HookEnd::Failed(text_of(&error)),
            }
        };
        Box::pin(Within { frame: self.frame, runtime, future: Box::pin(end) })
    }

    /// Drops the module; what its destructor does, panics included, is the caller's.
    pub(crate) fn destroy(&self) {
        if let Ok(mut module) = self.module.clone().try_write_owned() {
            let module = module.take();
            frames::within(self.frame, || drop(module));
        }
    }
}

impl Object {
    pub(crate) fn init(&self, bus: MessageBus, runtime: Option<Handle>) -> BoxFuture<HookEnd<Payload>> {
        match self {
            Self::Foreign(module) => module.init(),
            Self::InProcess(module) => {
                module.exclusive(runtime, |mut module| async move { module.init(bus).await })
            }
        }
    }

    pub(crate) fn start(&self, runtime: Option<Handle>) -> BoxFuture<HookEnd<Payload>> {
        match self {
            Self::Foreign(module) => module.start(),
            Self::InProcess(module) => {
                module.exclusive(runtime, |mut module| async move { module.start().await })
            }
        }
    }

    pub(crate) fn stop(&self, runtime: Option<Handle>) -> BoxFuture<HookEnd<Payload>> {
        match self {
            Self::Foreign(module) => module.stop(),
            Self::InProcess(module) => {
                module.exclusive(runtime, |mut module| async move { module.stop().await })
            }
        }
    }

    /// While nobody has the object mutably. A state of more than `limit` bytes is not taken.
    pub(crate) fn save_state(&self, limit: usize, runtime: Option<Handle>) -> BoxFuture<HookEnd<Saved>> {
        match self {
            Self::Foreign(module) => module.save_state(limit),
            Self::InProcess(module) => module.save_state(limit, runtime),
        }
    }

    pub(crate) fn on_message(
        &self,
        envelope: Envelope,
        runtime: Option<Handle>,
    ) -> BoxFuture<HookEnd<Payload>> {
        match self {
            Self::Foreign(module) => module.on_message(&envelope),
            Self::InProcess(module) => module.on_message(envelope, runtime),
        }
    }
}

/// A module's own error as a hook's end.
fn text_of(error: &KernelError) -> Error {
    match error {
        KernelError::UnknownMethod { method, .. } => Error::unknown_method(method),
        other => {
            let mut chain = Vec::new();
            let mut source = std::error::Error::source(other);
            while let Some(cause) = source {
                chain.push(cause.to_string());
                source = cause.source();
            }
            chain
                .into_iter()
                .rev()
                .fold(None, |inner: Option<Error>, cause| {
                    Some(inner.map_or_else(|| Error::new(&cause), |inner| inner.context(&cause)))
                })
                .map_or_else(|| Error::new(other), |inner| inner.context(other))
        }
    }
}

/// A future of an in-process module's: polled with its frame, and with the caller's runtime entered.
struct Within<T> {
    frame: Frame,
    runtime: Option<Handle>,
    future: BoxFuture<T>,
}

impl<T> Future for Within<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let _entered = this.runtime.as_ref().map(Handle::enter);
        frames::within(this.frame, || this.future.as_mut().poll(context))
    }
}
