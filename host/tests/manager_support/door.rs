//! Where a test keeps a hook waiting.

use std::{sync::Arc, thread, time::Duration};

use tokio::sync::watch;

use super::patiently;

/// A door that hooks wait at until the test opens it. Works on any runtime and on none.
#[derive(Clone)]
pub struct Door(Arc<DoorState>);

struct DoorState {
    open: watch::Sender<bool>,
    reached: watch::Sender<usize>,
}

impl Default for Door {
    fn default() -> Self {
        Self(Arc::new(DoorState { open: watch::Sender::new(false), reached: watch::Sender::new(0) }))
    }
}

impl Door {
    pub fn new() -> Self {
        Self::default()
    }

    /// For the hook: says that it is here, and waits.
    pub async fn pass(&self) {
        self.0.reached.send_modify(|reached| *reached += 1);
        let mut open = self.0.open.subscribe();
        open.wait_for(|open| *open).await.unwrap();
    }

    /// For a hook that blocks its thread.
    pub fn pass_blocking(&self) {
        self.0.reached.send_modify(|reached| *reached += 1);
        while !*self.0.open.borrow() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn open(&self) {
        self.0.open.send_replace(true);
    }

    /// For the test: waits until somebody stands at the door.
    pub async fn reached(&self) {
        self.reached_by(1).await;
    }

    pub fn is_reached(&self) -> bool {
        *self.0.reached.borrow() > 0
    }

    /// Waits until so many have come to the door.
    pub async fn reached_by(&self, count: usize) {
        let mut reached = self.0.reached.subscribe();
        patiently(reached.wait_for(|reached| *reached >= count)).await.unwrap();
    }
}

/// Opens the door also when the test fails, so that no thread is blocked for good.
pub struct OpenAtTheEnd(pub Door);

impl Drop for OpenAtTheEnd {
    fn drop(&mut self) {
        self.0.open();
    }
}
