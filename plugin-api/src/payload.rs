//! What a call takes and gives.

use std::fmt;

use serde::{Serialize, de::DeserializeOwned};

use crate::{Result, ffi::bytes::FfiBytes};

/// Owned bytes: the argument or the reply of a call.
///
/// They keep their own way of being freed, so a buffer of the host's goes into a plugin and comes back
/// without a copy.
pub struct Payload(FfiBytes);

impl Payload {
    /// No bytes.
    pub const fn empty() -> Self {
        Self(FfiBytes::empty())
    }

    /// Writes `value` as JSON text.
    ///
    /// # Errors
    /// When `value` cannot be written as JSON.
    pub fn json(value: &(impl Serialize + ?Sized)) -> Result<Self> {
        Ok(Self::from(serde_json::to_vec(value)?))
    }

    /// Reads the bytes as JSON text.
    ///
    /// # Errors
    /// When they are not JSON, or not a `T`.
    pub fn to_json<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(serde_json::from_slice(self.as_bytes())?)
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// How many bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }

    /// Replaces the bytes; in the same buffer when they fit. An argument that is filled with the reply goes back to its
    /// caller without another allocation.
    #[inline]
    pub fn refill(&mut self, bytes: &[u8]) {
        self.0.refill(bytes);
    }

    /// The bytes as a vector; copied only when the other side of the wall made them.
    #[inline]
    pub fn into_vec(self) -> Vec<u8> {
        self.0.into_vec()
    }

    /// What crosses. Not part of the contract.
    #[doc(hidden)]
    #[inline]
    pub fn into_ffi(self) -> FfiBytes {
        self.0
    }

    /// From what crossed. Not part of the contract.
    #[doc(hidden)]
    #[inline]
    pub fn from_ffi(bytes: FfiBytes) -> Self {
        Self(bytes)
    }
}

impl Default for Payload {
    fn default() -> Self {
        Self::empty()
    }
}

impl Clone for Payload {
    fn clone(&self) -> Self {
        Self::from(self.as_bytes())
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Payload {}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl From<Vec<u8>> for Payload {
    #[inline]
    fn from(bytes: Vec<u8>) -> Self {
        Self(FfiBytes::from_vec(bytes))
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        Self::from(bytes.to_vec())
    }
}

impl<const N: usize> From<&[u8; N]> for Payload {
    fn from(bytes: &[u8; N]) -> Self {
        Self::from(bytes.to_vec())
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::from(text.into_bytes())
    }
}

impl From<serde_json::Value> for Payload {
    /// The value as JSON text.
    fn from(value: serde_json::Value) -> Self {
        Self::from(value.to_string())
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self::from(text.as_bytes())
    }
}
