//! A guest that talks to other modules.
//!
//! - `call` with `MODULE METHOD JSON` calls that module over the bus and gives its answer;
//! - `publish` with `MODULE KIND JSON` publishes a custom event for that module;
//! - `heard` gives the messages that came for this one, a line each: source and message;
//! - `clock` gives what both clocks say.

use std::cell::RefCell;

use oxide::module::{
    bus, clock,
    log::{Level, log},
};

wit_bindgen::generate!({ path: "../../../../../plugin-api/wit", world: "module" });

thread_local! {
    static HEARD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Caller;

/// Three words; the last one goes up to the end.
fn words(payload: &str) -> Result<[&str; 3], Error> {
    let mut words = payload.splitn(3, ' ');
    match (words.next(), words.next(), words.next()) {
        (Some(module), Some(what), Some(json)) => Ok([module, what, json]),
        _ => Err(Error::Failed(format!("found `{payload}`, expected three words"))),
    }
}

impl Guest for Caller {
    fn metadata() -> ModuleMetadata {
        ModuleMetadata {
            id: "caller".into(),
            name: "Caller".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    fn configure(config: Json) -> Result<(), Error> {
        // `null` is what it gets when there is nothing to configure. For tests: too early for the bus.
        if config == "\"too early\"" { bus::publish("caller", "early", "null") } else { Ok(()) }
    }

    fn restore_state(state: SavedState) -> Result<(), Error> {
        Err(Error::Failed(format!("this build cannot restore a state (version {})", state.version)))
    }

    fn start() -> Result<(), Error> {
        bus::publish("caller", "started", "{}")
    }

    fn invoke(method: String, payload: Vec<u8>) -> Result<Vec<u8>, Error> {
        let payload = String::from_utf8_lossy(&payload);
        match method.as_str() {
            "call" => {
                let [module, method, json] = words(&payload)?;
                Ok(bus::request(module, method, json)?.into())
            }
            "publish" => {
                let [module, kind, json] = words(&payload)?;
                bus::publish(module, kind, json)?;
                Ok(Vec::new())
            }
            "heard" => Ok(HEARD.with_borrow(|heard| heard.join("\n")).into()),
            "clock" => Ok(format!("{} {}", clock::now(), clock::monotonic()).into()),
            "log" => {
                for level in [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error] {
                    log(level, &payload);
                }
                Ok(Vec::new())
            }
            _ => Err(Error::UnknownMethod(method)),
        }
    }

    fn on_message(envelope: Envelope) -> Result<(), Error> {
        HEARD.with_borrow_mut(|heard| heard.push(format!("{} {}", envelope.source, envelope.message)));
        Ok(())
    }

    fn save_state() -> Result<Option<SavedState>, Error> {
        Ok(None)
    }

    fn stop() -> Result<(), Error> {
        Ok(())
    }
}

export!(Caller);
