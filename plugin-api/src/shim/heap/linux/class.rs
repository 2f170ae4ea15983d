//! Size classes: 16-byte steps up to 256, then four per doubling up to 1 MiB.
//!
//! A class's blocks are aligned to the largest power of two that divides its size, up to [`ALIGN_MAX`]. So a
//! request whose size is a multiple of its alignment finds an aligned block in the class it would get anyway.

/// The largest alignment that blocks of a class have by themselves.
pub(super) const ALIGN_MAX: usize = 256;
/// The classes; the first is for a size of zero, which nobody may ask for.
pub(super) const CLASSES: usize = 65;
/// Classes below this, up to 128 KiB, have a list in each thread's cache.
pub(super) const CACHED: usize = 53;
/// What [`class_of`] says of a size above the last class: it gets a region of its own.
pub(super) const LARGE: usize = CLASSES;
/// What [`class_of`] says of an alignment above [`ALIGN_MAX`].
pub(super) const OVERALIGNED: usize = CLASSES + 1;

const STEP: usize = 16;
const STEPPED: usize = 256;
/// Up to here a table says the class, which is faster than to reckon it.
const LOOKED_UP: usize = 1024;
const SIZE_MAX: usize = 1 << 20;
/// What a thread keeps of one class, in bytes and in blocks.
const KEPT_BYTES: usize = 32 << 10;
const KEPT_BLOCKS: usize = 64;

/// The class for a layout's size and alignment.
#[inline(always)]
pub(super) fn class_of(size: usize, align: usize) -> usize {
    if align > ALIGN_MAX {
        return OVERALIGNED;
    }
    // A layout's size can be rounded up to its alignment without overflow.
    let size = (size + align - 1) & !(align - 1);
    if size <= LOOKED_UP {
        return SMALL[size.div_ceil(STEP)] as usize;
    }
    if size > SIZE_MAX {
        return LARGE;
    }
    reckoned(size)
}

/// The class of a size above the 16-byte steps.
#[inline(always)]
const fn reckoned(size: usize) -> usize {
    let last = size - 1;
    let log = last.ilog2() as usize;
    // The two bits below the highest one are the quarter of the doubling.
    STEPPED / STEP + (log - STEPPED.ilog2() as usize) * 4 + (last >> (log - 2)) - 3
}

static SMALL: [u8; LOOKED_UP / STEP + 1] = {
    let mut table = [0; LOOKED_UP / STEP + 1];
    let mut step = 0;
    while step < table.len() {
        table[step] = if step <= STEPPED / STEP { step } else { reckoned(step * STEP) } as u8;
        step += 1;
    }
    table
};

/// What is known of a class beforehand.
#[derive(Clone, Copy)]
pub(super) struct Class {
    pub(super) size: usize,
    pub(super) align: usize,
    /// How many free blocks a thread keeps at most.
    pub(super) kept: u32,
}

static TABLE: [Class; CLASSES] = {
    let mut table = [Class { size: STEP, align: STEP, kept: KEPT_BLOCKS as u32 }; CLASSES];
    let mut class = 1;
    while class < CLASSES {
        let stepped = STEPPED / STEP;
        let size = if class <= stepped {
            class * STEP
        } else {
            let past = class - stepped - 1;
            ((STEPPED / 4) * (past % 4 + 5)) << (past / 4)
        };
        let lowest_bit = size & size.wrapping_neg();
        table[class] = Class {
            size,
            align: if lowest_bit < ALIGN_MAX { lowest_bit } else { ALIGN_MAX },
            kept: if size * KEPT_BLOCKS <= KEPT_BYTES {
                KEPT_BLOCKS as u32
            } else if size <= KEPT_BYTES {
                (KEPT_BYTES / size) as u32
            } else {
                1
            },
        };
        class += 1;
    }
    table
};

#[inline]
pub(super) fn of(class: usize) -> Class {
    TABLE[class]
}
