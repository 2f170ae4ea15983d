//! Owned bytes that cross the wall together with the function that frees them.

use std::{mem::ManuallyDrop, ptr, slice};

use abi_stable::StableAbi;

/// Owned bytes with their own way of being freed. Frozen.
///
/// Whoever holds it may read it on any thread, write its `capacity` bytes when nobody else has it, and frees it by
/// dropping it; `free` is code of the image (host or plugin) that made it.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiBytes {
    data: *mut u8,
    len: usize,
    capacity: usize,
    /// How the maker frees it. The address tells whose it is: every image has a table of its own.
    maker: *const BytesMaker,
}

/// The image (host or plugin) that made some bytes. Frozen.
#[repr(C)]
#[derive(StableAbi)]
pub struct BytesMaker {
    /// Frees what the bytes point to. Never unwinds. `[any thread, while the maker is mapped]`
    free: unsafe extern "C" fn(data: *mut u8, len: usize, capacity: usize),
}

const _: () = assert!(size_of::<FfiBytes>() == 32);

// SAFETY: it owns plain bytes, and `free` may be called on any thread.
unsafe impl Send for FfiBytes {}
// SAFETY: a shared reference only reads.
unsafe impl Sync for FfiBytes {}

/// This image's own. Two images never share it, since it is not exported.
static OURS: BytesMaker = BytesMaker { free: free_vec };

/// Of bytes that own nothing.
static NOBODYS: BytesMaker = BytesMaker { free: free_nothing };

unsafe extern "C" fn free_vec(data: *mut u8, len: usize, capacity: usize) {
    // SAFETY: `FfiBytes::from_vec` took the three from a `Vec<u8>` of this image's allocator.
    drop(unsafe { Vec::from_raw_parts(data, len, capacity) });
}

unsafe extern "C" fn free_nothing(_: *mut u8, _: usize, _: usize) {}

impl FfiBytes {
    /// Bytes that own nothing.
    pub const fn empty() -> Self {
        Self { data: ptr::NonNull::dangling().as_ptr(), len: 0, capacity: 0, maker: &raw const NOBODYS }
    }

    /// Takes over a vector without copying it.
    #[inline]
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let mut bytes = ManuallyDrop::new(bytes);
        Self {
            data: bytes.as_mut_ptr(),
            len: bytes.len(),
            capacity: bytes.capacity(),
            maker: &raw const OURS,
        }
    }

    /// The bytes.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `data` and `len` describe the maker's buffer, which lives until `free`.
        unsafe { slice::from_raw_parts(self.data, self.len) }
    }

    /// Replaces the bytes: in the same buffer, whoever made it, when they fit, and in one of this image's when not.
    #[inline]
    pub fn refill(&mut self, bytes: &[u8]) {
        if bytes.len() > self.capacity {
            *self = Self::from_vec(bytes.to_vec());
            return;
        }
        // SAFETY: the maker's buffer has `capacity` bytes (`from_vec`, or none at all), and they fit. It is this
        // value's alone, so `bytes` are none of it.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.data, bytes.len()) };
        self.len = bytes.len();
    }

    /// Whether this image made them, so that they need no copy to outlive the other image.
    #[inline]
    pub fn is_ours(&self) -> bool {
        ptr::eq(self.maker, &raw const OURS)
    }

    /// The bytes as a vector of this image: uncopied when this image made them.
    #[inline]
    pub fn into_vec(self) -> Vec<u8> {
        if self.is_ours() {
            let this = ManuallyDrop::new(self);
            // SAFETY: `from_vec` of this image took the three from a `Vec<u8>`.
            return unsafe { Vec::from_raw_parts(this.data, this.len, this.capacity) };
        }
        self.as_slice().to_vec()
    }

    /// The same bytes in this image's memory; the other image's buffer is freed at once.
    #[inline]
    #[must_use]
    pub fn localized(self) -> Self {
        if self.is_ours() { self } else { Self::from_vec(self.as_slice().to_vec()) }
    }
}

impl Drop for FfiBytes {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: made by `from_vec` or `empty` of some image, and dropped once.
        unsafe { ((*self.maker).free)(self.data, self.len, self.capacity) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_vector_comes_back_uncopied() {
        let bytes = vec![1, 2, 3];
        let address = bytes.as_ptr();
        let back = FfiBytes::from_vec(bytes).into_vec();
        assert_eq!((back.as_ptr(), back.as_slice()), (address, &[1, 2, 3][..]));
    }

    #[test]
    fn other_bytes_go_into_the_same_buffer_when_they_fit() {
        let mut bytes = FfiBytes::from_vec(Vec::with_capacity(4));
        let address = bytes.as_slice().as_ptr();
        for fits in [&[1, 2, 3, 4][..], &[5], &[]] {
            bytes.refill(fits);
            assert_eq!((bytes.as_slice().as_ptr(), bytes.as_slice()), (address, fits));
        }
        bytes.refill(&[1, 2, 3, 4, 5]);
        assert_eq!(bytes.into_vec(), [1, 2, 3, 4, 5]);
        let mut none = FfiBytes::empty();
        none.refill(&[]);
        none.refill(&[6]);
        assert_eq!(none.into_vec(), [6]);
    }

    #[test]
    fn a_foreign_buffer_is_copied_and_freed() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static FREED: AtomicUsize = AtomicUsize::new(0);
        unsafe extern "C" fn count(_: *mut u8, len: usize, _: usize) {
            FREED.fetch_add(len, Ordering::Relaxed);
        }
        static DATA: [u8; 4] = [9, 8, 7, 6];
        let other = BytesMaker { free: count };
        let foreign =
            FfiBytes { data: DATA.as_ptr().cast_mut(), len: 4, capacity: 4, maker: &raw const other };
        let local = foreign.localized();
        assert!(local.is_ours());
        assert_eq!(local.as_slice(), &DATA);
        assert_eq!(FREED.load(Ordering::Relaxed), 4);
    }
}
