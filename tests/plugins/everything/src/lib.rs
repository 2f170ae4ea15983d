//! A plugin that uses what realistic plugins use, all of it in one call: thread-locals with destructors, standard
//! output, the handle of the present thread, spans and events, a panic that is caught, a tokio runtime of its
//! own, and a channel that is kept for good.
//!
//! `work` does all of that and answers `ok`. Nothing of it may stay after the unload.
#![forbid(unsafe_code)]

use std::{
    cell::RefCell,
    panic,
    sync::{Mutex, OnceLock, PoisonError, mpsc},
    thread,
    time::Duration,
};

use oxide_plugin_api::{prelude::*, tracing};
use tokio::sync::oneshot;

/// Long enough to need the clock.
const MOMENT: Duration = Duration::from_millis(1);

/// Something to be freed.
struct Scratch(Vec<String>);

impl Drop for Scratch {
    fn drop(&mut self) {
        self.0.clear();
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch(Vec::new())) };
    static NAME: String = thread::current().name().unwrap_or("nameless").to_owned();
}

/// Kept for good, as programs do.
static CHANNEL: OnceLock<(mpsc::Sender<String>, Mutex<mpsc::Receiver<String>>)> = OnceLock::new();

/// The module.
#[derive(Default)]
struct Everything;

fn on_this_thread(word: &str) -> usize {
    let span = tracing::debug_span!("work", word);
    let _inside = span.enter();
    tracing::debug!(thread = NAME.with(String::len), "at it");
    print!("");
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.0.push(word.to_owned());
        scratch.0.len()
    })
}

fn through_the_channel(word: &str) -> Result<String> {
    let (send, receive) = CHANNEL.get_or_init(|| {
        let (send, receive) = mpsc::channel();
        (send, Mutex::new(receive))
    });
    // One that nobody will take.
    send.send(word.to_owned())?;
    send.send(word.to_owned())?;
    Ok(receive.lock().unwrap_or_else(PoisonError::into_inner).recv()?)
}

impl Module for Everything {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "everything".into(),
            name: "Everything".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn start(&mut self) -> Result<()> {
        // Never ends by itself: the unload has to end it.
        tokio::spawn(async {
            loop {
                tokio::time::sleep(MOMENT * 100).await;
            }
        });
        Ok(())
    }

    async fn invoke(&self, method: &str, _: Payload) -> Result<Payload> {
        if method != "work" {
            return Err(Error::unknown_method(method));
        }
        on_this_thread("before");
        let word = through_the_channel("word")?;
        if panic::catch_unwind(|| panic!("caught at once")).is_ok() {
            return Err(Error::new("a panic went by"));
        }
        let (send, receive) = oneshot::channel();
        let task = tokio::spawn(async move {
            tokio::time::sleep(MOMENT).await;
            // On a thread of the runtime's.
            on_this_thread("within");
            let _ = send.send(word);
        });
        let word = receive.await?;
        task.await?;
        // Maybe on another thread than before.
        on_this_thread("after");
        if word == "word" { Ok("ok".into()) } else { Err(Error::new("the word has changed")) }
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(Everything);
