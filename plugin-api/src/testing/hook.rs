//! One hook on its way: guarded, with the generation's runtime entered, under a deadline.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use serde_json::Value;

use super::{
    context::{Context, Phase},
    work::Sleep,
};
use crate::{
    Envelope, Error, MessageBus, Module, ModuleMetadata, Payload, Result, SavedState, WasmModule,
    ffi::future::Guarded,
};

pub(super) type BoxFuture<'a, R> = Pin<Box<dyn Future<Output = R> + Send + 'a>>;

/// An author's module, whichever trait it implements.
pub(super) trait Hooks<M>: Send + Sync {
    fn module(&self) -> &M;
    fn into_module(self: Box<Self>) -> M;
    fn metadata(&self) -> ModuleMetadata;
    fn configure(&mut self, config: Value) -> BoxFuture<'_, Result<()>>;
    fn init(&mut self, bus: MessageBus) -> BoxFuture<'_, Result<()>>;
    fn restore_state(&mut self, state: SavedState) -> BoxFuture<'_, Result<()>>;
    fn start(&mut self) -> BoxFuture<'_, Result<()>>;
    fn invoke<'a>(&'a self, method: &'a str, payload: Payload) -> BoxFuture<'a, Result<Payload>>;
    fn on_message(&self, envelope: Envelope) -> BoxFuture<'_, Result<()>>;
    fn save_state(&self) -> BoxFuture<'_, Result<Option<SavedState>>>;
    fn stop(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// Each hook is called at its first poll, so that the guard is around the call too.
macro_rules! hooks {
    ($name:ident, $trait:ident, $init:ident) => {
        pub(super) struct $name<M>(pub(super) M);

        impl<M: $trait> Hooks<M> for $name<M> {
            fn module(&self) -> &M {
                &self.0
            }

            fn into_module(self: Box<Self>) -> M {
                self.0
            }

            fn metadata(&self) -> ModuleMetadata {
                self.0.metadata()
            }

            fn configure(&mut self, config: Value) -> BoxFuture<'_, Result<()>> {
                Box::pin(async move { self.0.configure(config).await })
            }

            fn init(&mut self, bus: MessageBus) -> BoxFuture<'_, Result<()>> {
                Box::pin(async move { self.0.$init(bus).await })
            }

            fn restore_state(&mut self, state: SavedState) -> BoxFuture<'_, Result<()>> {
                Box::pin(async move { self.0.restore_state(state).await })
            }

            fn start(&mut self) -> BoxFuture<'_, Result<()>> {
                Box::pin(async move { self.0.start().await })
            }

            fn invoke<'a>(&'a self, method: &'a str, payload: Payload) -> BoxFuture<'a, Result<Payload>> {
                Box::pin(async move { self.0.invoke(method, payload).await })
            }

            fn on_message(&self, envelope: Envelope) -> BoxFuture<'_, Result<()>> {
                Box::pin(async move { self.0.on_message(envelope).await })
            }

            fn save_state(&self) -> BoxFuture<'_, Result<Option<SavedState>>> {
                Box::pin(async move { self.0.save_state().await })
            }

            fn stop(&mut self) -> BoxFuture<'_, Result<()>> {
                Box::pin(async move { self.0.stop().await })
            }
        }
    };
}

hooks!(NativeHooks, Module, init);
hooks!(WasmHooks, WasmModule, instantiate);

/// A hook's answer, or the message of its panic.
type Ended<R> = std::result::Result<Result<R>, String>;

/// Polls one hook as the real host does, through the same guard.
pub(super) struct Hook<'a, R> {
    context: Arc<Context>,
    phase: Phase,
    name: &'static str,
    /// `None` once it was dropped.
    inner: Option<Guarded<BoxFuture<'a, Ended<R>>, Ended<R>>>,
    deadline: Sleep,
}

/// Runs a hook of the module behind `context`.
pub(super) fn run<'a, R: 'a>(
    context: &Arc<Context>,
    phase: Phase,
    name: &'static str,
    hook: BoxFuture<'a, Result<R>>,
) -> Hook<'a, R> {
    let future: BoxFuture<'a, Ended<R>> = Box::pin(async move { Ok(hook.await) });
    Hook {
        context: context.clone(),
        phase,
        name,
        inner: Some(Guarded::new(future, Err)),
        deadline: Sleep::new(context.core().settings().hook_deadline),
    }
}

impl<R> Future for Hook<'_, R> {
    type Output = Result<R>;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Result<R>> {
        let this = self.get_mut();
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(Err(Error::new("polled after it had ended")));
        };
        let polled = {
            let _entered = this.context.enter(this.phase);
            Pin::new(inner).poll(task)
        };
        if polled.is_pending() && Pin::new(&mut this.deadline).poll(task).is_pending() {
            return Poll::Pending;
        }
        this.release();
        let (hook, module) = (this.name, this.context.source());
        Poll::Ready(match polled {
            Poll::Ready(Ok(result)) => result,
            Poll::Ready(Err(message)) => {
                Err(Error::new(format_args!("`{hook}` of module `{module}` panicked: {message}")))
            }
            Poll::Pending => Err(Error::new(format_args!(
                "`{hook}` of module `{module}` did not end within {:?}",
                this.context.core().settings().hook_deadline
            ))),
        })
    }
}

impl<R> Hook<'_, R> {
    /// Drops the hook's future where its code expects to be: in its module's context.
    fn release(&mut self) {
        let _entered = self.context.enter(self.phase);
        self.inner = None;
    }
}

impl<R> Drop for Hook<'_, R> {
    fn drop(&mut self) {
        self.release();
    }
}
