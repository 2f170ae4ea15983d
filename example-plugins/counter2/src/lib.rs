//! The next build of `counter`, with one field more: it also knows how high it was.
//!
//! - `increment`, `get` and the configuration as before; `highest` replies the highest count there was.
//! - It takes the state of the first build, which had the count alone, and gives its own in a way that the first build
//!   can read: a rollback has the count again, and only the highest one is forgotten.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering};

use oxide_plugin_api::{
    prelude::*,
    serde::{Deserialize, Serialize},
};

/// The format of the first build's state: the count.
const COUNT_ALONE: u32 = 1;

/// The format of this build's state: [`State`].
const STATE_VERSION: u32 = 2;

/// What is saved.
#[derive(Serialize, Deserialize)]
#[serde(crate = "oxide_plugin_api::serde")]
struct State {
    count: i64,
    highest: i64,
}

/// The module. Many calls may be inside at once, hence the atomics.
#[derive(Default)]
struct Counter {
    count: AtomicI64,
    highest: AtomicI64,
}

impl Counter {
    /// Adds and gives the new count. A sum that no longer fits is refused and changes nothing.
    fn add(&self, amount: i64) -> Result<i64> {
        let count = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_add(amount))
            .map(|before| before + amount)
            .map_err(|count| Error::new(format_args!("{count} + {amount} does not fit into 64 bits")))?;
        self.highest.fetch_max(count, Ordering::Relaxed);
        Ok(count)
    }

    fn set(&mut self, state: State) {
        *self.count.get_mut() = state.count;
        *self.highest.get_mut() = state.highest;
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
            self.set(State { count: start, highest: start });
        }
        Ok(())
    }

    async fn restore_state(&mut self, state: SavedState) -> Result<()> {
        let state = state.upgrade_from(COUNT_ALONE, |count| Ok(State { count, highest: count }))?;
        self.set(state.read(STATE_VERSION)?);
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
            "highest" => self.highest.load(Ordering::Relaxed),
            other => return Err(Error::unknown_method(other)),
        };
        Payload::json(&count)
    }

    async fn save_state(&self) -> Result<Option<SavedState>> {
        let count = self.count.load(Ordering::Relaxed);
        let state = State { count, highest: self.highest.load(Ordering::Relaxed) };
        Ok(Some(SavedState::of(STATE_VERSION, &state)?.also(COUNT_ALONE, &count)?))
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
        assert_eq!(call(&counter, "highest", "")?, 42);
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
        assert_eq!(call(&counter, "highest", "")?, 400);
        Ok(())
    }

    #[test]
    fn the_configuration_says_where_to_begin() -> Result<()> {
        let mut counter = TestHost::new().load(Counter::default());
        counter.configure(json!({ "start": 7 }))?;
        counter.start()?;
        assert_eq!(call(&counter, "get", "")?, 7);
        assert_eq!(call(&counter, "highest", "")?, 7);

        let mut counter = TestHost::new().load(Counter::default());
        assert!(counter.configure(json!({ "start": "seven" })).is_err());
        Ok(())
    }

    #[test]
    fn it_takes_the_count_of_the_first_build() -> Result<()> {
        let mut counter = TestHost::new().load(Counter::default());
        counter.restore_state(SavedState::of(COUNT_ALONE, &-7)?)?;
        counter.start()?;
        assert_eq!((call(&counter, "get", "")?, call(&counter, "highest", "")?), (-7, -7));
        Ok(())
    }

    #[test]
    fn what_it_saves_both_builds_can_read() -> Result<()> {
        let mut old = TestHost::new().load_and_start(Counter::default())?;
        call(&old, "increment", "9")?;
        call(&old, "increment", "-4")?;
        let state = old.save_state()?.expect("a counter has a state");
        assert_eq!(state.read::<i64>(COUNT_ALONE)?, 5);

        let new = old.swap(Counter::default())?;
        assert_eq!((call(&new, "get", "")?, call(&new, "highest", "")?), (5, 9));
        Ok(())
    }

    #[test]
    fn any_other_state_is_refused() -> Result<()> {
        let refusal = |state| {
            let mut counter = TestHost::new().load(Counter::default());
            counter.restore_state(state).unwrap_err().to_string()
        };
        let newer = refusal(SavedState::of(STATE_VERSION + 1, "?")?);
        assert!(newer.starts_with("the state has version 3, this build reads version 2: "), "{newer}");
        let no_count = refusal(SavedState::of(COUNT_ALONE, "seven")?);
        assert_eq!(no_count, "the state cannot be brought from version 1 to 2");
        Ok(())
    }
}
