//! Who of a plugin is still there: its threads, and its thread-locals on others'.

use std::{sync::Arc, time::Duration};

use super::undertaker::{Holders, Patience};
use crate::{
    boundary::residue::{CHANGED, Residue},
    kernel,
    report::Holder,
    sys,
};

/// Waits for the threads that it started.
pub(super) async fn wait_for_threads(residue: &Arc<Residue>, holders: &mut Holders, patience: Patience) {
    let uncounted = residue.uncounted_threads();
    if uncounted > 0 {
        holders.add(Holder::Thread, uncounted, "threads that its constructors started");
    } else if !until(patience.threads, || residue.threads() == 0).await {
        let names: Vec<String> = residue
            .own_threads()
            .into_iter()
            .map(|number| format!("`{}`", crate::intake::printable(&sys::threads::name_of(number), 20)))
            .collect();
        let detail = format!("threads that it started and that run on: {}", names.join(", "));
        holders.add(Holder::Thread, residue.threads().max(1), detail);
    }
}

/// How many destructors are owed, and on which threads.
pub(super) fn debtors(residue: &Arc<Residue>) -> (usize, String) {
    let threads = residue.debtors().threads;
    let count = threads.iter().map(|(_, owed)| owed).sum::<usize>().max(residue.locals());
    let names: Vec<String> = threads
        .iter()
        .map(|(number, _)| format!("`{}`", crate::intake::printable(&sys::threads::name_of(*number), 20)))
        .collect();
    (count, format!("thread-locals on threads that have not come by since: {}", names.join(", ")))
}

/// Waits until `done`, which is looked at whenever something of a generation's is gone.
pub(super) async fn until(limit: Duration, done: impl Fn() -> bool) -> bool {
    let wait = async {
        loop {
            let changed = CHANGED.notified();
            if done() {
                return;
            }
            changed.await;
        }
    };
    done() || kernel::within(limit, wait).await.is_some()
}
