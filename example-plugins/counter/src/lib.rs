//! A plugin with a state: it counts, and a swap takes the count along.
//!
//! - `increment` adds 1, or the JSON number it is given; `get` adds nothing. Both reply the count as JSON.
//! - The configuration `{"start": N}` says where to begin.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering};

use oxide_plugin_api::prelude::*;

/// The format of the saved state: the count in eight bytes, little-endian.
const STATE_VERSION: u32 = 1;

/// The module. Many calls may be inside at once, hence the atomic.
#[derive(Default)]
struct Counter {
    count: AtomicI64,
}

impl Counter {
    /// Adds and gives the new count. A sum that no longer fits is refused and changes nothing.
    fn add(&self, amount: i64) -> Result<i64> {
        self.count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_add(amount))
            .map(|before| before + amount)
            .map_err(|count| Error::new(format_args!("{count} + {amount} does not fit into 64 bits")))
    }
}

impl Module for Counter {
    fn metadata(&self) -> ModuleMetadata {
        ModuleMetadata {
            id: "counter".into(),
            name: "Counter".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            kind: ModuleKind::Native,
            description: Some(env!("CARGO_PKG_DESCRIPTION").into()),
        }
    }

    async fn configure(&mut self, config: serde_json::Value) -> Result<()> {
        if let Some(start) = config.get("start") {
            let start = start
                .as_i64()
                .ok_or_else(|| Error::new(format_args!("`start` is {start}, expected a whole number")))?;
            *self.count.get_mut() = start;
        }
        Ok(())
    }

    async fn restore_state(&mut self, state: SavedState) -> Result<()> {
        if state.version != STATE_VERSION {
            return Err(Error::new(format_args!(
                "the state has version {}, expected {STATE_VERSION}",
                state.version
            )));
        }
        let bytes =
            state.bytes.as_slice().try_into().map_err(|_| {
                Error::new(format_args!("the state has {} bytes, expected 8", state.bytes.len()))
            })?;
        *self.count.get_mut() = i64::from_le_bytes(bytes);
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        Ok(())
    }

    async fn invoke(&self, method: &str, payload: Payload) -> Result<Payload> {
        let count = match method {
            "increment" if payload.is_empty() => self.add(1)?,
            "increment" => match payload.to_json()? {
                // A call over the bus that has nothing to say says `null`.
                None => self.add(1)?,
                Some(amount) => self.add(amount)?,
            },
            "get" => self.count.load(Ordering::Relaxed),
            other => return Err(Error::unknown_method(other)),
        };
        Payload::json(&count)
    }

    async fn save_state(&self) -> Result<Option<SavedState>> {
        let bytes = self.count.load(Ordering::Relaxed).to_le_bytes().to_vec();
        Ok(Some(SavedState { version: STATE_VERSION, bytes }))
    }

    async fn stop(&mut self) -> Result<()> {
        Ok(())
    }
}

export_module!(Counter);

#[cfg(test)]
mod tests {
    use std::thread;

    use oxide_plugin_api::serde_json::json;
    use oxide_plugin_api::testing::{TestHost, TestModule};

    use super::*;

    fn call(counter: &TestModule<Counter>, method: &str, payload: &str) -> Result<i64> {
        counter.invoke(method, payload)?.to_json()
    }

    #[test]
    fn counts_by_one_or_by_what_it_is_given() -> Result<()> {
        let counter = TestHost::new().load_and_start(Counter::default())?;
        assert_eq!(call(&counter, "get", "")?, 0);
        assert_eq!(call(&counter, "increment", "")?, 1);
        assert_eq!(call(&counter, "increment", "null")?, 2);
        assert_eq!(call(&counter, "increment", "40")?, 42);
        assert_eq!(call(&counter, "increment", "-2")?, 40);
        assert_eq!(call(&counter, "get", "")?, 40);
        Ok(())
    }

    #[test]
    fn what_is_no_whole_number_is_refused_and_changes_nothing() -> Result<()> {
        let mut counter = TestHost::new().load(Counter::default());
        counter.configure(json!({ "start": i64::MAX }))?;
        counter.start()?;
        assert!(call(&counter, "increment", "1.5").is_err());
        assert!(call(&counter, "increment", "\"one\"").is_err());
        assert!(call(&counter, "increment", "one").is_err());
        assert!(call(&counter, "increment", "").unwrap_err().to_string().contains("does not fit"));
        assert_eq!(call(&counter, "get", "")?, i64::MAX);
        assert!(call(&counter, "decrement", "").is_err());
        Ok(())
    }

    #[test]
    fn calls_at_once_are_all_counted() -> Result<()> {
        let counter = TestHost::new().load_and_start(Counter::default())?;
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| drop(counter.invoke("increment", b"").unwrap())));
            }
        });
        assert_eq!(call(&counter, "get", "")?, 400);
        Ok(())
    }

    #[test]
    fn the_configuration_says_where_to_begin() -> Result<()> {
        let mut counter = TestHost::new().load(Counter::default());
        counter.configure(json!({ "start": 7 }))?;
        counter.start()?;
        assert_eq!(call(&counter, "get", "")?, 7);

        let mut counter = TestHost::new().load(Counter::default());
        assert!(counter.configure(json!({ "start": "seven" })).is_err());
        Ok(())
    }

    #[test]
    fn a_swap_takes_the_count_along() -> Result<()> {
        let host = TestHost::new();
        let mut old = host.load_and_start(Counter::default())?;
        call(&old, "increment", "5")?;

        let mut new = host.load(Counter::default());
        new.configure(json!({ "start": 100 }))?;
        new.restore_state(old.save_state()?.expect("a counter has a state"))?;
        new.start()?;
        old.stop()?;
        assert_eq!(call(&new, "increment", "")?, 6);
        Ok(())
    }

    #[test]
    fn a_state_of_another_version_or_size_is_refused() {
        for (version, len) in [(STATE_VERSION + 1, 8), (STATE_VERSION, 7)] {
            let mut counter = TestHost::new().load(Counter::default());
            assert!(counter.restore_state(SavedState { version, bytes: vec![1; len] }).is_err());
        }
    }
}
