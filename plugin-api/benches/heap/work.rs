//! What is measured, the same for both allocators, and a host that only maps.

#[path = "../../src/shim/heap/mod.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "the crate's own module, read here as a source file"
)]
mod heap;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    ptr,
    sync::{
        Once,
        atomic::{AtomicPtr, Ordering::Acquire, Ordering::Release},
    },
    time::Instant,
};

use heap::{Heap, RegionSource};

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

unsafe extern "C" fn map(_: *const (), len: usize) -> *mut u8 {
    // SAFETY: a new anonymous mapping.
    let start = unsafe {
        libc::mmap(ptr::null_mut(), len, READ_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    };
    if start == libc::MAP_FAILED { ptr::null_mut() } else { start.cast() }
}

unsafe extern "C" fn unmap(_: *const (), start: *mut u8, len: usize) {
    // SAFETY: the heap is done with it.
    unsafe { libc::munmap(start.cast(), len) };
}

unsafe extern "C" fn remap(_: *const (), start: *mut u8, len: usize, new_len: usize) -> *mut u8 {
    // SAFETY: a mapping of the heap's.
    let moved = unsafe { libc::mremap(start.cast(), len, new_len, libc::MREMAP_MAYMOVE) };
    if moved == libc::MAP_FAILED { ptr::null_mut() } else { moved.cast() }
}

unsafe extern "C" fn adopt(_: *const (), _: *mut u8, _: usize) {}

// `run` releases by itself at its end.
unsafe extern "C" fn at_thread_end(_: *const (), _: unsafe extern "C" fn()) {}

/// The allocators, as a call of `__rust_alloc` finds them: not inlined into the caller.
trait Tried {
    unsafe fn alloc(layout: Layout) -> *mut u8;
    unsafe fn dealloc(block: *mut u8, layout: Layout);
    unsafe fn realloc(block: *mut u8, layout: Layout, new_size: usize) -> *mut u8;
}

static HEAP: Heap = Heap::new();

macro_rules! tried {
    ($name:ident, $allocator:expr) => {
        struct $name;

        impl Tried for $name {
            #[inline(never)]
            unsafe fn alloc(layout: Layout) -> *mut u8 {
                // SAFETY: the caller's promise.
                unsafe { $allocator.alloc(layout) }
            }
            #[inline(never)]
            unsafe fn dealloc(block: *mut u8, layout: Layout) {
                // SAFETY: the caller's promise.
                unsafe { $allocator.dealloc(block, layout) }
            }
            #[inline(never)]
            unsafe fn realloc(block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
                // SAFETY: the caller's promise.
                unsafe { $allocator.realloc(block, layout, new_size) }
            }
        }
    };
}

tried!(Ours, HEAP);
tried!(Systems, System);

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a small layout")
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// 16 bytes to 8 KiB, each doubling as likely as the others.
    fn size(&mut self) -> usize {
        let low = 16_usize << (self.next() % 9);
        low + (self.next() as usize) % low
    }
}

fn pair<A: Tried>(size: usize, iterations: u64) {
    for turn in 0..iterations {
        // SAFETY: a block is freed once, with its layout.
        unsafe {
            let layout = black_box(layout(size));
            let block = A::alloc(layout);
            block.write(turn as u8);
            A::dealloc(black_box(block), layout);
        }
    }
}

/// One function for both allocators: how the loop happens to be aligned makes more difference than they do.
///
/// # Safety
/// There is room up to `to`.
#[inline(never)]
unsafe fn push(numbers: *mut usize, from: usize, to: usize) {
    for element in from..to {
        // SAFETY: the caller's promise.
        unsafe { numbers.add(black_box(element)).write(element) };
    }
}

/// Pushes numbers as `Vec` does: room for 4 first, then twice as much each time.
fn growing<A: Tried>(elements: usize, iterations: u64) {
    for _ in 0..iterations {
        let mut room = 4;
        // SAFETY: writes inside the room, which is what the block has; freed once with its layout.
        unsafe {
            let mut numbers = A::alloc(layout(room * 8)).cast::<usize>();
            push(numbers, 0, room);
            while room < elements {
                numbers = A::realloc(numbers.cast(), layout(room * 8), room * 16).cast();
                push(numbers, room, elements.min(room * 2));
                room *= 2;
            }
            A::dealloc(black_box(numbers).cast(), layout(room * 8));
        }
    }
}

fn mixed<A: Tried>(seed: u64, iterations: u64) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
    let mut live: Vec<(*mut u8, usize)> = Vec::with_capacity(1000);
    // SAFETY: each block is freed once with its size.
    unsafe {
        for _ in 0..1000 {
            let size = random.size();
            live.push((A::alloc(layout(size)), size));
        }
        for _ in 0..iterations {
            let place = (random.next() % 1000) as usize;
            let (block, size) = live[place];
            A::dealloc(block, layout(size));
            let size = random.size();
            let block = A::alloc(layout(size));
            block.write(1);
            live[place] = (block, size);
        }
        for (block, size) in live {
            A::dealloc(block, layout(size));
        }
    }
}

const RING: usize = 256;
static SLOTS: [AtomicPtr<usize>; RING] = [const { AtomicPtr::new(ptr::null_mut()) }; RING];

fn turn<R>(mut attempt: impl FnMut() -> Option<R>) -> R {
    let mut tries = 0;
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        tries += 1;
        if tries % 64 == 0 { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
}

fn produce<A: Tried>(iterations: u64) {
    let mut random = Random(7);
    for number in 0..iterations as usize {
        let size = 64 + (random.next() % 960) as usize;
        // SAFETY: at least 64 bytes, and nobody else has them yet.
        let message = unsafe {
            let block = A::alloc(layout(size)).cast::<usize>();
            block.write(size);
            block
        };
        let slot = &SLOTS[number % RING];
        turn(|| slot.load(Acquire).is_null().then_some(()));
        slot.store(message, Release);
    }
}

fn consume<A: Tried>(iterations: u64) {
    for number in 0..iterations as usize {
        let slot = &SLOTS[number % RING];
        let message = turn(|| Some(slot.load(Acquire)).filter(|message| !message.is_null()));
        slot.store(ptr::null_mut(), Release);
        // SAFETY: the producer wrote its size, and does not come back to it.
        unsafe { A::dealloc(message.cast(), layout(message.read())) };
    }
}

/// The names of the workloads, by number. In the last one two threads have different roles.
pub(crate) const NAMES: [&str; 13] = [
    "pair of 16",
    "pair of 64",
    "pair of 256",
    "pair of 1024",
    "pair of 8192",
    "pair of 65536",
    "pair of 512 KiB",
    "pair of 2 MiB",
    "growing to 1,000",
    "growing to 10,000",
    "growing to 1,000,000",
    "1,000 live, mixed",
    "producer and consumer",
];

/// The last workload, which needs two threads.
pub(crate) const PAIRED: usize = NAMES.len() - 1;

fn work<A: Tried>(work: usize, role: u64, iterations: u64) {
    match work {
        0..6 => pair::<A>([16, 64, 256, 1024, 8192, 65536][work], iterations),
        6 => pair::<A>(512 << 10, iterations),
        7 => pair::<A>(2 << 20, iterations),
        8 => growing::<A>(1_000, iterations),
        9 => growing::<A>(10_000, iterations),
        10 => growing::<A>(1_000_000, iterations),
        11 => mixed::<A>(role, iterations),
        _ if role == 0 => produce::<A>(iterations),
        _ => consume::<A>(iterations),
    }
}

/// Lends the heap a word of the program's.
#[allow(dead_code, reason = "used by the library alone")]
pub(crate) extern "C" fn lend(word: isize) {
    // SAFETY: `heap.rs` asks the program for it, and lends no word twice.
    unsafe { heap::lend_word(word) };
}

/// Does one workload on this thread, with the heap or with the system's allocator. Gives nanoseconds.
pub(crate) extern "C" fn run(ours: bool, number: usize, role: u64, iterations: u64) -> u64 {
    static ATTACHED: Once = Once::new();
    ATTACHED.call_once(|| {
        heap::attach(RegionSource { context: ptr::null(), map, unmap, remap, adopt, at_thread_end });
    });
    let start = Instant::now();
    if ours {
        work::<Ours>(number, role, iterations);
    } else {
        work::<Systems>(number, role, iterations);
    }
    let taken = start.elapsed();
    // SAFETY: not inside the allocator.
    unsafe { heap::release_this_thread() };
    taken.as_nanos() as u64
}
