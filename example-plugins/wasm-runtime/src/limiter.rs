//! What a guest may take of memory, tables and instances.

use wasmtime::{Error, ResourceLimiter, Result};

use crate::config::Limits;

/// Counts what one instance has taken, all of its memories and tables together.
pub(crate) struct Limiter {
    memory: Budget,
    tables: Budget,
    instances: usize,
    refused: Option<String>,
}

struct Budget {
    limit: usize,
    /// What was granted. What the system could not give then stays counted: a failure is reported without saying of
    /// what, and a guest must not talk its account down with failures of its own making.
    taken: usize,
}

impl Budget {
    fn new(limit: usize) -> Self {
        Self { limit, taken: 0 }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let more = desired.saturating_sub(current);
        let fits = self.taken.checked_add(more).is_some_and(|sum| sum <= self.limit);
        if fits {
            self.taken += more;
        }
        fits
    }
}

impl Limiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            memory: Budget::new(limits.memory),
            tables: Budget::new(limits.table_elements),
            instances: limits.instances,
            refused: None,
        }
    }

    /// The last thing that was refused since this was asked before.
    pub(crate) fn take_refused(&mut self) -> Option<String> {
        self.refused.take()
    }
}

// A refusal is not an error: a guest gets the -1 that its `grow` is made for. What it does then is its own business,
// and when that is a trap, the refusal is told as its cause.
impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let fits = self.memory.grow(current, desired);
        if !fits {
            self.refused = Some(format!(
                "it was refused {desired} bytes of memory, as it may have {} (`wasm.memory`)",
                self.memory.limit
            ));
        }
        Ok(fits)
    }

    fn memory_grow_failed(&mut self, error: Error) -> Result<()> {
        self.refused = Some(format!("the system refused it more memory: {error}"));
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let fits = self.tables.grow(current, desired);
        if !fits {
            self.refused = Some(format!(
                "it was refused a table of {desired} elements, as it may have {} (`wasm.table_elements`)",
                self.tables.limit
            ));
        }
        Ok(fits)
    }

    fn table_grow_failed(&mut self, error: Error) -> Result<()> {
        self.refused = Some(format!("the system refused it a larger table: {error}"));
        Ok(())
    }

    fn instances(&self) -> usize {
        self.instances
    }

    fn memories(&self) -> usize {
        self.instances
    }

    fn tables(&self) -> usize {
        self.instances
    }
}
