//! A plugin with a state: it counts, and a swap takes the count along.
//!
//! - `increment` adds 1, or the JSON number it is given; `get` adds nothing. Both reply the count as JSON.
//! - The configuration `{"start": N}` says where to begin.
//!
//! `counter2` is its next build.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering};

use oxide_plugin_api::prelude::*;

/// The format of the saved state: the count.
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
        *self.count.get_mut() = state.read(STATE_VERSION)?;
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
        Ok(Some(SavedState::of(STATE_VERSION, &self.count.load(Ordering::Relaxed))?))
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
        let mut old = TestHost::new().load(Counter::default());
        old.configure(json!({ "start": 100 }))?;
        old.start()?;
        call(&old, "increment", "5")?;
        let new = old.swap(Counter::default())?;
        assert_eq!(call(&new, "increment", "")?, 106);
        Ok(())
    }

    #[test]
    fn a_newer_build_may_give_the_count_along() -> Result<()> {
        let mut counter = TestHost::new().load(Counter::default());
        let newer = json!({ "count": -7, "and": "what this build never heard of" });
        counter.restore_state(SavedState::of(2, &newer)?.also(STATE_VERSION, &-7)?)?;
        counter.start()?;
        assert_eq!(call(&counter, "get", "")?, -7);
        Ok(())
    }

    #[test]
    fn any_other_state_is_refused() -> Result<()> {
        let refusal = |state| {
            let mut counter = TestHost::new().load(Counter::default());
            counter.restore_state(state).unwrap_err().to_string()
        };
        let newer = refusal(SavedState::of(STATE_VERSION + 1, &json!({ "count": 7 }))?);
        assert!(newer.starts_with("the state has version 2, this build reads version 1: "), "{newer}");
        let no_count = refusal(SavedState::of(STATE_VERSION, "seven")?);
        assert!(no_count.starts_with("the state says that it has version 1, but"), "{no_count}");
        Ok(())
    }
}
