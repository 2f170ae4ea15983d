//! The example plugin `counter` as a guest: it counts, and a swap takes the count along, to a native build as well.
//!
//! - `increment` adds 1, or the JSON number it is given; `get` adds nothing. Both reply the count as JSON.
//! - The configuration `{"start": N}` says where to begin.

use std::cell::Cell;

use oxide::module::log::{Level, log};

wit_bindgen::generate!({ path: "../../../../../plugin-api/wit", world: "module" });

/// The format of the saved state, the native build's: the count as JSON. A newer build may give this version along,
/// each older version on a line of its own.
const STATE_VERSION: u32 = 1;

thread_local! {
    static COUNT: Cell<i64> = const { Cell::new(0) };
    static STARTED: Cell<bool> = const { Cell::new(false) };
}

struct Counter;

fn failed<T>(message: impl Into<String>) -> Result<T, Error> {
    Err(Error::Failed(message.into()))
}

fn number(json: &str) -> Result<i64, Error> {
    json.parse().or_else(|_| failed(format!("found `{json}`, expected a whole number")))
}

impl Guest for Counter {
    fn metadata() -> ModuleMetadata {
        ModuleMetadata {
            id: "counter".into(),
            name: "Counter".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    fn configure(config: Json) -> Result<(), Error> {
        // The host writes JSON without spaces, so that this can do without a parser.
        let start = config.strip_prefix("{\"start\":").and_then(|rest| rest.strip_suffix('}'));
        match start {
            Some(start) => COUNT.set(number(start)?),
            None if config == "null" || config == "{}" => {}
            None => return failed(format!("found {config}, expected {{\"start\": N}}")),
        }
        Ok(())
    }

    fn restore_state(state: SavedState) -> Result<(), Error> {
        let line = state.version.checked_sub(STATE_VERSION).and_then(|newer| {
            let lines = state.bytes.split(|byte| *byte == b'\n');
            lines.into_iter().nth(newer as usize)
        });
        let Some(line) = line else {
            return failed(format!("the state has version {}, expected {STATE_VERSION}", state.version));
        };
        COUNT.set(number(&String::from_utf8_lossy(line))?);
        Ok(())
    }

    fn start() -> Result<(), Error> {
        STARTED.set(true);
        log(Level::Info, &format!("counts from {}", COUNT.get()));
        Ok(())
    }

    fn invoke(method: String, payload: Vec<u8>) -> Result<Vec<u8>, Error> {
        let text = String::from_utf8_lossy(&payload);
        let amount = match method.as_str() {
            // A call over the bus that has nothing to say says `null`.
            "increment" if text.is_empty() || text == "null" => 1,
            "increment" => number(&text)?,
            "get" => 0,
            // For tests: whether `start` has run, and what a broken guest does.
            "started" => return Ok(STARTED.get().to_string().into()),
            "give-up" => panic!("asked to"),
            _ => return Err(Error::UnknownMethod(method)),
        };
        let count = COUNT.get();
        let Some(sum) = count.checked_add(amount) else {
            return failed(format!("{count} + {amount} does not fit into 64 bits"));
        };
        COUNT.set(sum);
        Ok(sum.to_string().into())
    }

    fn on_message(_: Envelope) -> Result<(), Error> {
        Ok(())
    }

    fn save_state() -> Result<Option<SavedState>, Error> {
        Ok(Some(SavedState { version: STATE_VERSION, bytes: COUNT.get().to_string().into() }))
    }

    fn stop() -> Result<(), Error> {
        log(Level::Info, &format!("counted up to {}", COUNT.get()));
        Ok(())
    }
}

export!(Counter);
