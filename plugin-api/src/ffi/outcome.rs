//! How a hook or a host function ended: an answer, an error, or a panic with its message.

use abi_stable::StableAbi;

use crate::{Error, ErrorKind, Payload, Result, ffi::bytes::FfiBytes};

/// The three outcomes of every crossing, and the two that callers tell apart. Frozen.
pub mod status {
    /// Not ready; the waker will be woken.
    pub const PENDING: u8 = 0;
    /// The body is the answer.
    pub const OK: u8 = 1;
    /// The body is a message, the chain its causes.
    pub const FAILED: u8 = 2;
    /// The body is the method's name.
    pub const UNKNOWN_METHOD: u8 = 3;
    /// The body is the panic's message and place.
    pub const PANICKED: u8 = 4;
    /// There will be no more answers: the subscription or the host is closed.
    pub const CLOSED: u8 = 5;
}

/// How something ended. Frozen.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiOutcome {
    /// One of [`status`].
    pub status: u8,
    /// The answer, or a message.
    pub body: FfiBytes,
    /// The messages of what caused a failure, each ended by a NUL.
    pub chain: FfiBytes,
}

/// What `save_state` gave. Frozen.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiState {
    /// How the hook ended; its body is the state's bytes.
    pub outcome: FfiOutcome,
    /// 0 when there is no state.
    pub present: u8,
    /// The state's version.
    pub version: u32,
}

/// What a module's constructor gave. Frozen.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiCreated {
    /// How it ended.
    pub outcome: FfiOutcome,
    /// The object, when `outcome` is ok.
    pub object: *mut (),
}

impl FfiOutcome {
    /// An answer.
    pub fn ok(body: Payload) -> Self {
        Self { status: status::OK, body: body.into_ffi(), chain: FfiBytes::empty() }
    }

    /// A caught panic.
    pub fn panicked(message: String) -> Self {
        Self {
            status: status::PANICKED,
            body: FfiBytes::from_vec(message.into_bytes()),
            chain: FfiBytes::empty(),
        }
    }

    /// No more answers.
    pub fn closed() -> Self {
        Self { status: status::CLOSED, body: FfiBytes::empty(), chain: FfiBytes::empty() }
    }

    /// An error.
    pub fn failed(error: &Error) -> Self {
        let mut chain = Vec::new();
        for cause in error.chain() {
            chain.extend(cause.bytes().map(|byte| if byte == 0 { b' ' } else { byte }));
            chain.push(0);
        }
        Self {
            status: match error.kind() {
                ErrorKind::UnknownMethod => status::UNKNOWN_METHOD,
                ErrorKind::Failed => status::FAILED,
            },
            body: FfiBytes::from_vec(error.message().as_bytes().to_vec()),
            chain: FfiBytes::from_vec(chain),
        }
    }

    /// From what a hook returned.
    pub fn from_result(result: Result<Payload>) -> Self {
        match result {
            Ok(body) => Self::ok(body),
            Err(error) => Self::failed(&error),
        }
    }

    /// What the other side said, copied into this image's memory. A panic over there is an error here.
    pub fn into_result(self) -> Result<Payload> {
        match self.status {
            status::OK => Ok(Payload::from_ffi(self.body.localized())),
            status::UNKNOWN_METHOD => Err(self.into_error(ErrorKind::UnknownMethod)),
            status::CLOSED => Err(Error::new("the host has closed this")),
            _ => Err(self.into_error(ErrorKind::Failed)),
        }
    }

    /// The message and its causes, copied into this image's memory.
    pub fn into_error(self, kind: ErrorKind) -> Error {
        let message = String::from_utf8_lossy(self.body.as_slice()).into_owned();
        Error::from_parts(kind, message, split_chain(self.chain.as_slice()))
    }
}

/// The causes, each ended by a NUL.
fn split_chain(bytes: &[u8]) -> Vec<String> {
    let mut causes: Vec<String> =
        bytes.split(|&byte| byte == 0).map(|cause| String::from_utf8_lossy(cause).into_owned()).collect();
    causes.pop();
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_causes_across_the_wall() {
        let error = Error::new("root").context("middle").context("top");
        let back = FfiOutcome::failed(&error).into_result().unwrap_err();
        assert_eq!(back, error);
        assert_eq!(back.chain(), ["middle", "root"]);
    }
}
