//! The plugins, and what is to become of each.

use std::time::Duration;

use oxide_host::report::Holder;

/// One plugin of this workspace.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) name: &'static str,
    /// Its package is called `uses-` and this.
    pub(crate) package: &'static str,
    /// Set in the process.
    pub(crate) variable: Option<(&'static str, &'static str)>,
    /// What of the crate is used.
    pub(crate) uses: &'static str,
    pub(crate) end: End,
    /// The most by which the process may grow with each cycle, in KiB.
    pub(crate) grows: f64,
}

/// How each of its generations is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Unmapped,
    /// Still mapped, and this is why.
    Retained(Holder),
}

impl Plugin {
    /// How long the unload waits for threads. Those that are known never to end are not waited for long.
    pub(crate) fn patience(&self) -> Duration {
        if self.end == End::Unmapped { Duration::from_secs(5) } else { Duration::from_millis(20) }
    }
}

const fn unmapped(name: &'static str, uses: &'static str, grows: f64) -> Plugin {
    Plugin { name, package: name, variable: None, uses, end: End::Unmapped, grows }
}

/// All of them.
pub(crate) const PLUGINS: &[Plugin] = &[
    unmapped("regex", "a static `Regex` shared by all threads, `RegexSet`, replacing", 8.0),
    unmapped("rand", "`rand::rng()` (a thread-local with a destructor), shuffling, `StdRng`", 8.0),
    unmapped("serde-json", "derived types, `Value`, errors", 8.0),
    unmapped("tracing", "spans, events and `#[instrument]`, logged by the host", 8.0),
    unmapped(
        "tracing-subscriber",
        "a registry with a `fmt` layer and `EnvFilter`, through `with_default`",
        8.0,
    ),
    unmapped("tokio", "TCP, timers, files, tasks, `spawn_blocking`, on plugin-api's feature `tokio`", 8.0),
    unmapped("reqwest", "an HTTPS server (hyper, rustls, ring, rcgen) and a reqwest client", 8.0),
    unmapped("aws-lc", "TLS with rustls and aws-lc-rs between two threads", 8.0),
    unmapped("rusqlite", "SQLite, bundled: a database in memory and one in a file (WAL)", 8.0),
    Plugin {
        name: "rayon-global",
        package: "rayon-global",
        variable: None,
        uses: "rayon's global pool",
        end: End::Retained(Holder::Thread),
        grows: 4_096.0,
    },
    unmapped("rayon-pool", "a `ThreadPool` of its own, dropped in `stop`", 8.0),
    unmapped("image", "drawing, PNG encoding and decoding, resizing", 8.0),
    unmapped("chrono", "`Local::now()`, parsing, calculating", 8.0),
    unmapped("crossbeam", "scoped threads, channels, deque, epoch, `SegQueue`", 8.0),
    unmapped("dashmap", "a static map that all calls share", 8.0),
    unmapped(
        "parking-lot",
        "`Mutex`, `Condvar`, `RwLock`, `FairMutex`, `Once`, on callers' threads too",
        8.0,
    ),
    unmapped("mimalloc", "its own allocator, with `local_dynamic_tls` and `allocator = none`", 65_536.0),
    Plugin {
        name: "mimalloc-destroy",
        variable: Some(("MIMALLOC_DESTROY_ON_EXIT", "1")),
        ..unmapped("mimalloc", "the same file, told to give its memory back when it is closed", 64.0)
    },
    unmapped(
        "jemalloc",
        "its own allocator, with `disable_initial_exec_tls` and `allocator = none`",
        2_048.0,
    ),
];
