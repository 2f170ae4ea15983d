//! Waits on locks and a condition of `parking_lot`, whose table of parked threads is global and whose
//! thread data is a thread-local with a destructor.
#![forbid(unsafe_code)]

use std::{sync::Arc, thread, time::Duration};

use common::check;
use oxide_plugin_api::prelude::*;
use parking_lot::{Condvar, FairMutex, Mutex, Once, RwLock};

static SHARED: Mutex<u64> = Mutex::new(0);
static ONCE: Once = Once::new();

fn wait(seed: u64) -> Result<()> {
    ONCE.call_once(|| *SHARED.lock() += 1);
    let pair = Arc::new((Mutex::new(None), Condvar::new()));
    let other = pair.clone();
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_micros(200));
        *other.0.lock() = Some(seed);
        other.1.notify_all();
    });
    {
        // Parks this thread, which is the caller's.
        let mut received = pair.0.lock();
        while received.is_none() {
            pair.1.wait(&mut received);
        }
        check(*received == Some(seed), "what was received")?;
    }
    sender.join().map_err(|_| Error::new("the sender panicked"))?;
    let numbers = RwLock::new(FairMutex::new(Vec::new()));
    thread::scope(|scope| {
        for n in 0..3 {
            let numbers = &numbers;
            scope.spawn(move || (0..50).for_each(|_| numbers.read().lock().push(n)));
        }
    });
    check(numbers.write().lock().len() == 150, "the number of numbers")?;
    let _busy = SHARED.lock();
    check(SHARED.try_lock_for(Duration::from_micros(100)).is_none(), "that a lock can be had twice")
}

common::stateless!(wait);
