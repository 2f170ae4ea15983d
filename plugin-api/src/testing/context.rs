//! Contexts: what stands for one loaded module in the table of functions, found by its number.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use super::{bus::Core, lock, logs::LogLine};
use crate::{Error, MessageBus, Result, ffi::test_table, testing::work};

/// One loaded module, or the test itself, as the host's functions see it.
pub(crate) struct Context {
    number: usize,
    source: String,
    core: Arc<Core>,
    closed: AtomicBool,
}

/// How long a task lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Until the unload: spawned in `configure` or `init`, or by such a task.
    Life,
    /// Until `stop`: all others.
    Running,
}

static CONTEXTS: Mutex<BTreeMap<usize, Arc<Context>>> = Mutex::new(BTreeMap::new());

/// For threads that work for no module, such as one that a module started itself.
static NOBODY: LazyLock<Arc<Context>> =
    LazyLock::new(|| Context::open(Arc::new(Core::new(super::Settings::default())), "nobody".to_owned()));

thread_local! {
    /// Which module this thread works for at present; 0 is none.
    static CURRENT: Cell<(usize, Phase)> = const { Cell::new((0, Phase::Life)) };
}

/// The open context with this number; for 0 that of the thread.
pub(crate) fn find(number: usize) -> Option<Arc<Context>> {
    let number = if number == 0 { CURRENT.get().0 } else { number };
    if number == 0 { Some(NOBODY.clone()) } else { lock(&CONTEXTS).get(&number).cloned() }
}

/// Records a line for the module that wrote it.
pub(crate) fn log(context: Option<&Context>, line: LogLine) {
    line.print();
    if let Some(context) = context.filter(|context| context.number != NOBODY.number) {
        context.core.log(line);
    }
}

impl Context {
    pub(super) fn open(core: Arc<Core>, source: String) -> Arc<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let context = Arc::new(Self { number, source, core, closed: AtomicBool::new(false) });
        lock(&CONTEXTS).insert(number, context.clone());
        context
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Who its messages come from.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The bus as this module sees it: the real one, over the test host's table.
    pub(super) fn bus(&self) -> MessageBus {
        MessageBus::new(test_table::host(self.number))
    }

    /// This thread works for the module until the guard is dropped.
    pub(super) fn enter(&self, phase: Phase) -> Entered {
        Entered(CURRENT.replace((self.number, phase)))
    }

    /// The phase that a task spawned here and now belongs to.
    pub(super) fn phase(&self) -> Phase {
        let (number, phase) = CURRENT.get();
        if number == self.number || self.number == NOBODY.number { phase } else { Phase::Running }
    }

    /// Ends the tasks of the running phase, or with `all` every one, and waits for them.
    pub(super) async fn end_tasks(&self, all: bool) -> Result<()> {
        let limit = self.core.settings().task_deadline;
        work::end(self.number, |phase| all || phase == Phase::Running, limit).await.map_err(|left| {
            Error::new(format_args!(
                "{left} task(s) of module `{}` did not end within {limit:?}: a task ends when it next waits",
                self.source
            ))
        })
    }

    /// Revokes everything: from now on the host's functions answer "closed".
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        lock(&CONTEXTS).remove(&self.number);
        self.core.unsubscribe_all(self.number);
    }
}

/// Puts back the module that the thread worked for before.
pub(super) struct Entered((usize, Phase));

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}
