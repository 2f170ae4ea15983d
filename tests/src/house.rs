//! A host in a child, whose receipts are held against the process's map.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use oxide_host::{
    Host, HostBuilder, LoadOptions, Receipt, SwapReport,
    bus::{Event, Message, Subscription},
    error::KernelError,
    report::Holder,
};
use serde_json::Value;

use crate::{block_on, child, plugin};

/// No unload in a test gives up for being slow.
const PATIENT: Duration = Duration::from_secs(60 * 60);

/// A host, and where the copies of its libraries are.
pub struct House {
    /// The host.
    pub host: Host,
    /// Its copies' folder.
    staging: PathBuf,
    /// How many files it has staged.
    staged: u32,
    /// Each module's copy, by the end of its path.
    copies: HashMap<String, String>,
    events: Subscription,
}

impl House {
    /// A host that waits as long as it takes.
    pub async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    /// A host that was set up in another way than that.
    ///
    /// # Panics
    /// When it cannot be.
    pub async fn with(change: impl FnOnce(HostBuilder) -> HostBuilder) -> Self {
        let staging = tempfile::tempdir_in(child::folder()).expect("room for temporary files").keep();
        let builder = Host::builder().thread_timeout(PATIENT).local_timeout(PATIENT);
        let host = change(builder).staging_dir(&staging).build().expect("a host can be set up");
        let events = host.bus().subscribe().await;
        Self { host, staging, staged: 0, copies: HashMap::new(), events }
    }

    /// Loads and starts a plugin under its package's name.
    pub async fn load(&mut self, package: &str) {
        self.load_as(package, package, Value::Null).await;
    }

    /// Loads and starts a plugin.
    ///
    /// # Panics
    /// When it does not let itself be loaded.
    pub async fn load_as(&mut self, package: &str, id: &str, config: Value) {
        self.load_file(&plugin(package), id, config).await.expect("it loads");
    }

    /// Loads and starts whatever is at `path`.
    ///
    /// # Errors
    /// As [`Host::load_with`].
    pub async fn load_file(&mut self, path: &Path, id: &str, config: Value) -> Result<(), KernelError> {
        let loaded = self.host.load_with(path, LoadOptions::new().id(id).config(config)).await;
        self.staged += 1;
        self.copies.insert(id.to_owned(), format!("-{}{}", self.staged, std::env::consts::DLL_SUFFIX));
        loaded.map(drop)
    }

    /// Swaps a module to another build, and holds the receipt of the one before against the map.
    ///
    /// # Panics
    /// When it is not swapped, or the receipt is not true.
    pub async fn swap(&mut self, id: &str, path: &Path) -> SwapReport {
        let report = self.host.swap(id, path).await.expect("it is swapped");
        self.judge(&report.old);
        self.staged += 1;
        self.copies.insert(id.to_owned(), format!("-{}{}", self.staged, std::env::consts::DLL_SUFFIX));
        report
    }

    /// Calls a module.
    ///
    /// # Errors
    /// As [`Host::invoke`].
    pub async fn try_call(&self, id: &str, method: &str, argument: &str) -> Result<String, KernelError> {
        let reply = self.host.invoke(id, method, argument).await?;
        Ok(String::from_utf8_lossy(reply.as_bytes()).into_owned())
    }

    /// Calls a module, which answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn call(&self, id: &str, method: &str, argument: &str) -> String {
        self.try_call(id, method, argument).await.expect("it answers")
    }

    /// Calls a module on a thread that ends then, so that nothing is left on the present one.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn call_aside(&self, id: &str, method: &str, argument: &str) -> String {
        let call = || block_on(self.call(id, method, argument));
        thread::scope(|scope| scope.spawn(call).join()).expect("it answers")
    }

    /// Whether the copy of this module's library is in the process's map.
    ///
    /// # Panics
    /// When the map cannot be read, or no such module was loaded.
    pub fn is_mapped(&self, id: &str) -> bool {
        let (staging, copy) = (self.staging.to_string_lossy(), &self.copies[id]);
        let maps = fs::read_to_string("/proc/self/maps").expect("the map can be read");
        maps.lines().any(|line| {
            line.contains(&*staging) && line.strip_suffix(" (deleted)").unwrap_or(line).ends_with(copy)
        })
    }

    /// Unloads a module, and holds the receipt against the map and the list of what is retained.
    ///
    /// # Panics
    /// When it is not true.
    pub async fn unload(&self, id: &str) -> Receipt {
        let receipt = self.host.unload(id).await.expect("it was loaded");
        self.judge(&receipt);
        receipt
    }

    /// Whether a receipt is true, now that nothing has changed since.
    ///
    /// # Panics
    /// When it is not.
    pub fn judge(&self, receipt: &Receipt) {
        assert_eq!(receipt.unmapped, !self.is_mapped(&receipt.id), "the map says otherwise: {receipt:?}");
        assert_eq!(receipt.unmapped, receipt.retained_by.is_empty(), "{receipt:?}");
        let retained = self.host.retained();
        let retained: Vec<_> = retained.iter().filter(|one| one.id == receipt.id).collect();
        match receipt.unmapped {
            true => assert!(retained.is_empty(), "{retained:?}"),
            false => assert_eq!(retained.len(), 1, "{retained:?}"),
        }
    }

    /// Unloads a module, which is gone then.
    ///
    /// # Panics
    /// When it is not.
    pub async fn gone(&self, id: &str) -> Receipt {
        let receipt = self.unload(id).await;
        assert!(receipt.unmapped, "{receipt:?}");
        receipt
    }

    /// Unloads a module that is retained, and says by whom: (holder, count).
    ///
    /// # Panics
    /// When it is gone.
    pub async fn retained(&self, id: &str) -> Vec<(Holder, u64)> {
        let receipt = self.unload(id).await;
        assert!(!receipt.unmapped, "{receipt:?}");
        holders(&receipt)
    }

    /// Waits until it is announced that a retained module is gone after all, which is true then.
    ///
    /// # Panics
    /// When it is not.
    pub async fn gone_at_last(&mut self, id: &str) -> Receipt {
        let receipt = loop {
            let envelope = self.events.receiver.recv().await.expect("the bus is there");
            if let Message::Event(Event::ModuleUnmapped { module_id, receipt }) = envelope.message
                && module_id == id
            {
                break serde_json::from_value(receipt).expect("a receipt");
            }
        };
        self.judge(&receipt);
        assert!(receipt.unmapped, "{receipt:?}");
        receipt
    }

    /// Unloads a module whose thread-locals are on threads that come by when they are asked to, but at a time
    /// of their own: it is gone at once, or it is announced.
    ///
    /// # Panics
    /// When anything else holds it.
    pub async fn gone_in_a_while(&mut self, id: &str) -> Receipt {
        let receipt = self.unload(id).await;
        if receipt.unmapped {
            return receipt;
        }
        assert!(receipt.retained_by.iter().all(|one| one.holder == Holder::ThreadLocal), "{receipt:?}");
        self.gone_at_last(id).await
    }
}

/// Who holds it, and with how many.
pub fn holders(receipt: &Receipt) -> Vec<(Holder, u64)> {
    receipt.retained_by.iter().map(|retention| (retention.holder, retention.count)).collect()
}

/// The lines of a file in the child's folder, in order of their text; none when there is no such file.
pub fn lines(path: &Path) -> Vec<String> {
    let mut lines: Vec<String> =
        fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The bytes of this process that are in memory.
///
/// # Panics
/// When the system does not say.
pub fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the system says");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has such a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}
