//! What the contract promises authors, without any host.
#![forbid(unsafe_code)]

use std::{
    future::Future,
    io,
    pin::pin,
    task::{Context, Poll, Waker},
};

use oxide_plugin_api::{ErrorKind, prelude::*};

/// The module of the crate's front page.
#[derive(Default)]
struct Echo;

impl Module for Echo {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "echo".into(),
            name: "Echo".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: None,
        }
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(Echo);

/// What only the export uses; not dead code in an author's unit tests.
mod constructed_by_the_host_only {
    use super::*;

    struct Guest(());

    impl Guest {
        fn make() -> Self {
            Self(())
        }
    }

    impl WasmModule for Guest {
        fn metadata(&self) -> ModuleMetadata {
            let () = self.0;
            ModuleMetadata { kind: ModuleKind::Wasm, ..Echo.metadata() }
        }

        async fn start(&mut self) -> Result<()> {
            Ok(())
        }

        async fn stop(&mut self) -> Result<()> {
            Ok(())
        }
    }

    export_wasm_module!(Guest, constructor = Guest::make, capabilities = ["bus", "net"], allocator = none);
}

/// The defaults are ready at once.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

fn custom(kind: &str) -> Event {
    Event::Custom { module_id: "echo".into(), kind: kind.into(), payload: serde_json::json!({ "n": 1 }) }
}

#[test]
fn a_hook_that_was_not_written_says_yes_or_that_it_cannot() {
    let mut echo = Echo;
    now(echo.configure(serde_json::json!({ "any": "thing" }))).unwrap();
    now(echo.on_message(Envelope::new("somebody", custom("hello")))).unwrap();
    assert_eq!(now(echo.save_state()).unwrap(), None);

    let error = now(echo.invoke("echo", Payload::empty())).unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::UnknownMethod, "echo"));
    assert_eq!(error.to_string(), "unknown method `echo`");

    let error = now(echo.restore_state(SavedState { version: 3, bytes: vec![1] })).unwrap_err();
    assert_eq!(error.to_string(), "this build cannot restore a state (version 3)");
}

#[test]
fn an_error_keeps_its_causes() {
    #[derive(Debug)]
    struct Outer(io::Error);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("outer")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    fn fails() -> Result<()> {
        Err(Outer(io::Error::other("inner")))?;
        Ok(())
    }

    let error = fails().unwrap_err();
    assert_eq!((error.message(), error.chain()), ("outer", &["inner".to_owned()][..]));
    let error = error.context("while starting");
    assert_eq!(error.to_string(), "while starting");
    assert_eq!(error.chain(), ["outer", "inner"]);
    let error = Error::unknown_method("a\nb").context("asked");
    assert_eq!(
        (error.kind(), error.chain()),
        (ErrorKind::Failed, &["unknown method `a\\nb`".to_owned()][..])
    );
}

#[test]
fn a_payload_is_bytes_and_json() {
    let payload = Payload::json(&vec![1, 2, 3]).unwrap();
    assert_eq!(payload.as_bytes(), b"[1,2,3]");
    assert_eq!(payload.to_json::<Vec<u8>>().unwrap(), [1, 2, 3]);
    assert!(payload.to_json::<String>().is_err());
    assert_eq!(payload.clone(), Payload::from("[1,2,3]"));
    assert_eq!(payload.into_vec(), b"[1,2,3]");

    assert!(Payload::default().is_empty());
    assert!(Payload::empty().to_json::<serde_json::Value>().is_err());
    let mut bytes = Vec::with_capacity(100);
    bytes.extend(b"roomy");
    let address = bytes.as_ptr();
    let back = Payload::from(bytes).into_vec();
    assert_eq!((back.as_ptr(), back.capacity()), (address, 100));
}

#[test]
fn a_state_is_written_and_read_without_another_dependency() {
    use oxide_plugin_api::serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(crate = "oxide_plugin_api::serde")]
    struct State {
        names: Vec<String>,
        #[serde(default)]
        ratio: Option<f64>,
    }

    let state = State { names: vec!["ä".into(), "b\nc".into()], ratio: Some(0.1) };
    let saved = SavedState::of(4, &state).unwrap().also(3, &state.names).unwrap();
    assert_eq!(saved.version, 4);
    assert_eq!(saved.read::<State>(4).unwrap(), state);
    assert_eq!(saved.read::<Vec<String>>(3).unwrap(), state.names);

    // Fields that one of the two builds does not have need no number of their own.
    let fewer = SavedState::of(4, &serde_json::json!({ "names": [], "unheard": "of" })).unwrap();
    assert_eq!(fewer.read::<State>(4).unwrap(), State { names: vec![], ratio: None });
}

#[test]
fn a_filter_wants_what_meets_all_of_its_conditions() {
    let question = Envelope::new("somebody", Command::Ping);
    let event = Envelope::new("echo", custom("tick")).answering(question.id);

    assert!(Filter::all().matches(&question) && Filter::all().matches(&event));
    assert!(Filter::commands().matches(&question) && !Filter::commands().matches(&event));
    assert!(Filter::events().matches(&event) && !Filter::events().matches(&question));
    assert!(Filter::all().from_source("echo").matches(&event));
    assert!(!Filter::all().from_source("echo").matches(&question));
    assert!(Filter::all().about("echo").matches(&event));
    assert!(!Filter::all().about("echo").matches(&question));
    assert!(Filter::all().kind("tick").matches(&event));
    assert!(!Filter::all().kind("tock").matches(&event));
    assert!(!Filter::all().kind("tick").matches(&question));
    assert!(Filter::all().answering(question.id).matches(&event));
    assert!(!Filter::all().answering(event.id).matches(&event));

    let strict = Filter::events().from_source("echo").about("echo").kind("tick").answering(question.id);
    assert!(strict.matches(&event));
    assert!(!strict.about("other").matches(&event));
}

#[test]
fn a_message_reads_the_same_after_it_was_json() {
    let messages: Vec<Message> = vec![
        Command::Ping.into(),
        Command::Invoke { module_id: "echo".into(), method: "echo".into(), payload: 1.into() }.into(),
        custom("tick").into(),
        Event::CommandFailed { module_id: None, error: "no".into() }.into(),
    ];
    for message in messages {
        let envelope = Envelope::new("echo", message);
        let back: Envelope = Payload::json(&envelope).unwrap().to_json().unwrap();
        assert_eq!(back, envelope);
    }
    let filter = Filter::events().kind("tick");
    assert_eq!(Payload::json(&filter).unwrap().to_json::<Filter>().unwrap(), filter);
    assert_eq!(serde_json::from_str::<Filter>("{}").unwrap(), Filter::all());
}
