//! A module that counts, callers flat out in the process and over the socket, and a swap again and again.
//!
//! Every answer says which build gave it and how many calls had been counted by then, so that afterwards each build
//! must have counted on from where the one before it left off, without a gap and without an overlap.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use oxide_host::{
    Host, SwapOptions,
    daemon::{Claim, Daemon, Endpoint},
    error::KernelError,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::misbehave::options;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Swaps {
    /// The plugin `misbehaving`, in a file that nobody else in the process loads.
    pub library: PathBuf,
    /// The same with other bytes.
    pub other: PathBuf,
    /// Whether it has a state, so that calls are held.
    pub stateful: bool,
    /// Tasks that call by a handle.
    pub callers: usize,
    /// Threads that call over the socket.
    pub sockets: usize,
    /// The pause between one swap's beginning and the next one's, if it ends before.
    pub pace: Duration,
    /// When to stop.
    pub until: Until,
    /// Each so many swaps there is one in between that fails in its last step; none for 0.
    pub fail_each: usize,
}

/// When to stop swapping.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many.
    Swaps(usize),
    /// After this time.
    Time(Duration),
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Swaps that were done.
    pub swaps: usize,
    /// Swaps that failed, as they were to.
    pub failed: usize,
    /// Calls by handles.
    pub calls: u64,
    /// Calls over the socket.
    pub socket_calls: u64,
    /// Calls that were held.
    pub held: u64,
    /// The longest hold.
    pub longest_hold: Duration,
    /// Swaps whose old generation was not gone by their end, but soon after.
    pub late: usize,
}

/// What one build has counted.
struct Counted {
    first: AtomicI64,
    last: AtomicI64,
    times: AtomicI64,
}

/// What all builds have counted. All of its memory is there from the beginning.
struct Book {
    builds: Vec<Counted>,
    over: AtomicBool,
    by_handle: AtomicU64,
    by_socket: AtomicU64,
}

impl Book {
    fn new(builds: usize) -> Self {
        let counted = |_| Counted {
            first: AtomicI64::new(i64::MAX),
            last: AtomicI64::new(0),
            times: AtomicI64::new(0),
        };
        let builds = (0..builds).map(counted).collect();
        let (by_handle, by_socket) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { builds, over: AtomicBool::new(false), by_handle, by_socket }
    }

    /// Takes an answer to a caller who got one of `latest` before; gives the build it is of.
    fn enter(&self, answer: &[u8], latest: usize) -> usize {
        let (_, build, count): (Value, usize, i64) = serde_json::from_slice(answer).expect("a tally");
        assert!(build >= latest, "build {build} answered a caller whom {latest} had answered before");
        let counted = &self.builds[build];
        counted.first.fetch_min(count, SeqCst);
        counted.last.fetch_max(count, SeqCst);
        counted.times.fetch_add(1, SeqCst);
        build
    }

    /// Whether each build counted every call once, and from where the one before left off.
    fn balance(&self, builds: usize, stateful: bool) {
        let mut before = 0;
        for (number, counted) in self.builds[..builds].iter().enumerate() {
            let times = counted.times.load(SeqCst);
            if times == 0 {
                continue;
            }
            let (first, last) = (counted.first.load(SeqCst), counted.last.load(SeqCst));
            let expected = if stateful { before + 1 } else { 1 };
            assert_eq!((first, last), (expected, expected + times - 1), "build {number}");
            before = last;
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }
}

fn orders(build: usize, stateful: bool, start: &str) -> Value {
    let state = if stateful { json!({ "version": 1 }) } else { Value::Null };
    json!({ "id": "m", "build": build, "state": state, "start": start })
}

/// Does it; `after` is told after each swap how many there were.
///
/// # Panics
/// When any call is lost, repeated, or answered wrongly, or anything is left of an old generation.
pub async fn run(what: &Swaps, mut after: impl FnMut(&Host, usize)) -> Outcome {
    let most = match what.until {
        Until::Swaps(most) => most,
        // Far quicker than any machine.
        Until::Time(time) => usize::try_from(time.as_millis()).expect("no test takes so long").max(1) * 2,
    };
    let book = Arc::new(Book::new(most + 1));
    let host = Host::new().expect("a host");
    let first = options("m", orders(0, what.stateful, "ok"));
    host.load_with(&what.library, first).await.expect("it loads");

    let callers: Vec<_> = (0..what.callers).map(|_| tokio::spawn(call(host.clone(), book.clone()))).collect();
    let folder = tempfile::Builder::new().prefix("ox").tempdir_in("/tmp").expect("a folder for a socket");
    let (daemon, socket) = serve(&host, &folder.path().join("s")).await;
    let sockets: Vec<_> = (0..what.sockets)
        .map(|_| {
            let (socket, book) = (socket.clone(), book.clone());
            thread::spawn(move || call_by_socket(&socket, &book))
        })
        .collect();

    let mut outcome = Outcome::default();
    let began = Instant::now();
    let goes_on = |swaps: usize| match what.until {
        Until::Swaps(most) => swaps < most,
        Until::Time(time) => began.elapsed() < time && swaps < most,
    };
    let mut pace = tokio::time::interval(what.pace);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while goes_on(outcome.swaps) {
        pace.tick().await;
        if what.fail_each > 0 && outcome.swaps.is_multiple_of(what.fail_each) {
            swap_in_vain(&host, what).await;
            outcome.failed += 1;
        }
        swap(&host, what, &mut outcome).await;
        after(&host, outcome.swaps);
    }
    book.over.store(true, SeqCst);
    for caller in callers {
        caller.await.expect("every call is answered");
    }
    for caller in sockets {
        let joined = tokio::task::spawn_blocking(move || caller.join()).await.expect("it ends");
        joined.expect("every call is answered");
    }
    let answered = book.by_handle.load(SeqCst) + book.by_socket.load(SeqCst);
    (outcome.calls, outcome.socket_calls) = (book.by_handle.load(SeqCst), book.by_socket.load(SeqCst));
    book.balance(outcome.swaps + 1, what.stateful);
    if what.stateful {
        let last = host.invoke("m", "add", "").await.expect("it answers").to_json::<u64>().expect("a number");
        assert_eq!(last, answered + 1, "it counted what was answered, and nothing else");
    }
    // One that was late has its chance.
    let ours = |path: &Path| path == what.library || path == what.other;
    let is_retained = || host.retained().iter().any(|kept| ours(&kept.path));
    crate::eventually("nothing is retained", || !is_retained()).await;
    let receipts = daemon.end().await;
    assert!(receipts.iter().all(|receipt| receipt.unmapped), "{receipts:?}");
    outcome
}

async fn swap(host: &Host, what: &Swaps, outcome: &mut Outcome) {
    let number = outcome.swaps + 1;
    let file = if number.is_multiple_of(2) { &what.library } else { &what.other };
    let asked = SwapOptions::new().config(orders(number, what.stateful, "ok"));
    let report = host.swap_with("m", file, asked).await.expect("it is swapped");
    assert_eq!((report.from, report.to), (number as u64, number as u64 + 1));
    assert_eq!(report.state_moved, what.stateful);
    outcome.swaps = number;
    outcome.held += report.held_calls;
    outcome.longest_hold = outcome.longest_hold.max(Duration::from_micros(report.hold_micros));
    outcome.late += usize::from(!report.old.unmapped);
}

async fn swap_in_vain(host: &Host, what: &Swaps) {
    let asked = SwapOptions::new().force(true).config(orders(usize::MAX, what.stateful, "fail"));
    match host.swap_with("m", &what.other, asked).await {
        Err(KernelError::SwapFailed { .. }) => {}
        other => panic!("it was to fail: {other:?}"),
    }
}

async fn call(host: Host, book: Arc<Book>) {
    let module = host.module("m").expect("it is there");
    let mut latest = 0;
    while !book.is_over() {
        let answer = module.invoke("tally", "").await.expect("every call is answered");
        latest = book.enter(answer.as_bytes(), latest);
        book.by_handle.fetch_add(1, SeqCst);
        tokio::task::yield_now().await;
    }
}

/// One connection that stays.
fn call_by_socket(socket: &Path, book: &Book) {
    let stream = UnixStream::connect(socket).expect("the host is there");
    let mut answers = BufReader::new(stream.try_clone().expect("a descriptor"));
    let mut stream = stream;
    let mut latest = 0;
    while !book.is_over() {
        let request = "POST /v1/modules/m/invoke/tally HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("sent");
        latest = book.enter(&answer(&mut answers), latest);
        book.by_socket.fetch_add(1, SeqCst);
    }
}

fn answer(stream: &mut impl BufRead) -> Vec<u8> {
    let mut line = || {
        let mut line = String::new();
        stream.read_line(&mut line).expect("an answer");
        line.trim_end().to_ascii_lowercase()
    };
    let status = line();
    let mut length = 0;
    loop {
        let header = line();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a body");
    assert!(status.contains(" 200 "), "{status}: {}", String::from_utf8_lossy(&body));
    body
}

/// A host that answers on a socket.
struct Served {
    end: oneshot::Sender<()>,
    receipts: tokio::task::JoinHandle<Vec<oxide_host::Receipt>>,
}

async fn serve(host: &Host, socket: &Path) -> (Served, PathBuf) {
    let claim = Arc::new(Claim::acquire(Endpoint::at(socket)).expect("nobody else has it"));
    let daemon = Daemon::bind(host.clone(), claim).await.expect("a socket");
    let (end, ends) = oneshot::channel();
    let receipts = tokio::spawn(daemon.serve(async {
        let _ = ends.await;
    }));
    (Served { end, receipts }, socket.to_owned())
}

impl Served {
    async fn end(self) -> Vec<oxide_host::Receipt> {
        let _ = self.end.send(());
        self.receipts.await.expect("it ends")
    }
}
