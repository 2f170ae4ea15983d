//! loom's primitives under the names of the host's `boundary/sync.rs`.

use std::{
    any::Any,
    cell::{RefCell, UnsafeCell},
    collections::HashMap,
    future::Future,
    ops::{Deref, DerefMut},
    ptr,
    task::{Poll, Waker},
};

pub(crate) use loom::sync::Arc;

use self::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};

pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
}

/// One slot for the model's main thread, one for another, and one that all further ones share.
pub(crate) const CALL_SLOTS: usize = 3;

/// parking_lot's mutex. Like that one's, `try_lock` first looks at the state without ordering anything, and
/// may see it as locked although it no longer is; loom's own mutex would order the two.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T> {
    locked: AtomicBool,
    inner: loom::sync::Mutex<T>,
}

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    locked: &'a AtomicBool,
    inner: loom::sync::MutexGuard<'a, T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { locked: AtomicBool::new(false), inner: loom::sync::Mutex::new(value) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let inner = self.inner.lock().expect("loom's are never poisoned");
        self.guard(inner)
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        if self.locked.load(Relaxed) {
            return None;
        }
        let inner = self.inner.try_lock().ok()?;
        Some(self.guard(inner))
    }

    fn guard<'a>(&'a self, inner: loom::sync::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.locked.store(true, Relaxed);
        MutexGuard { locked: &self.locked, inner }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.locked.store(false, Release);
    }
}

/// tokio's `Notify`, as far as `notify_waiters` goes: it reaches every `notified()` that was made before it.
#[derive(Debug)]
pub(crate) struct Notify(loom::sync::Mutex<Notified>);

#[derive(Debug, Default)]
struct Notified {
    times: usize,
    waiting: Vec<Waker>,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self(loom::sync::Mutex::default())
    }

    pub(crate) fn notified(&self) -> impl Future<Output = ()> {
        let before = self.lock().times;
        std::future::poll_fn(move |context| {
            let mut notified = self.lock();
            if notified.times != before {
                return Poll::Ready(());
            }
            notified.waiting.push(context.waker().clone());
            Poll::Pending
        })
    }

    pub(crate) fn notify_waiters(&self) {
        let waiting = {
            let mut notified = self.lock();
            notified.times += 1;
            std::mem::take(&mut notified.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> loom::sync::MutexGuard<'_, Notified> {
        self.0.lock().expect("loom's are never poisoned")
    }
}

/// std's `OnceLock`.
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    is_set: AtomicBool,
    setting: loom::sync::Mutex<()>,
    value: UnsafeCell<Option<T>>,
}

impl<T> OnceLock<T> {
    pub(crate) fn new() -> Self {
        let (is_set, setting) = (AtomicBool::new(false), loom::sync::Mutex::new(()));
        Self { is_set, setting, value: UnsafeCell::new(None) }
    }

    pub(crate) fn get(&self) -> Option<&T> {
        // SAFETY: once `is_set` it is written no more.
        if self.is_set.load(Acquire) { unsafe { (*self.value.get()).as_ref() } } else { None }
    }

    pub(crate) fn get_or_init(&self, init: impl FnOnce() -> T) -> &T {
        if let Some(value) = self.get() {
            return value;
        }
        let _setting = self.setting.lock();
        // SAFETY: under the lock, and nobody has a reference before `is_set`, from when on it is only read.
        let value = unsafe { &mut *self.value.get() };
        let value = value.get_or_insert_with(init);
        self.is_set.store(true, Release);
        value
    }

    pub(crate) fn into_inner(self) -> Option<T> {
        self.value.into_inner()
    }
}

/// A `static` that begins anew with each execution. Not loom's `lazy_static`, which is gone as soon as the
/// main thread has ended, before the thread-locals of the others are: there the host gives slots back.
pub(crate) struct Global<T> {
    pub(crate) init: fn() -> T,
}

std::thread_local! {
    static VALUES: RefCell<HashMap<usize, Box<dyn Any>>> = RefCell::default();
}

/// Forgets what the last execution on this thread has left.
pub(crate) fn forget_globals() {
    VALUES.with_borrow_mut(HashMap::clear);
}

impl<T: 'static> Deref for Global<T> {
    type Target = T;

    /// To be used by the model's main thread first: then it is made before any other thread begins.
    fn deref(&self) -> &T {
        let key = ptr::from_ref(self).addr();
        let known = VALUES.with_borrow(|values| values.get(&key).map(|value| ptr::from_ref(&**value)));
        let value = known.unwrap_or_else(|| {
            let value: Box<dyn Any> = Box::new((self.init)());
            let address = ptr::from_ref(&*value);
            VALUES.with_borrow_mut(|values| values.insert(key, value));
            address
        });
        // SAFETY: boxed, so it stays where it is until the execution is over.
        unsafe { &*value }.downcast_ref().expect("the key is the static's address")
    }
}

macro_rules! global {
    ($(#[$meta:meta])* static $name:ident: $type:ty = $init:expr;) => {
        $(#[$meta])*
        static $name: $crate::boundary::sync::Global<$type> =
            $crate::boundary::sync::Global { init: || $init };
    };
}
pub(crate) use global;

macro_rules! local {
    ($($(#[$meta:meta])* static $name:ident: $type:ty = const $init:block;)*) => {
        $(loom::thread_local! {
            $(#[$meta])*
            static $name: $type = $init;
        })*
    };
}
pub(crate) use local as thread_local;
