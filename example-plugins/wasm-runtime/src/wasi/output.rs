//! A guest's standard output and error: lines in the host's log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::{
    async_trait,
    cli::{IsTerminal, StdoutStream},
    p2::{OutputStream, Pollable, StreamResult},
};

use crate::host;

/// The levels at which they are told.
pub(super) const STDOUT: u32 = 3;
pub(super) const STDERR: u32 = 2;

/// How many bytes it takes at once; a longer line is told in parts.
const AT_ONCE: usize = 4 << 10;

/// All streams of one guest write the same lines.
#[derive(Clone)]
pub(super) struct Lines(Arc<Mutex<Line>>);

struct Line {
    level: u32,
    begun: Vec<u8>,
}

impl Lines {
    pub(super) fn new(level: u32) -> Self {
        Self(Arc::new(Mutex::new(Line { level, begun: Vec::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.begun.len() >= AT_ONCE {
                self.tell();
            }
        }
    }

    fn tell(&mut self) {
        let line = std::mem::take(&mut self.begun);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if !text.is_empty() {
            host::log(self.level, text);
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tell();
    }
}

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Lines {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // For later versions of WASI, which are not offered.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Lines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.lock().write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(AT_ONCE)
    }
}

#[async_trait]
impl Pollable for Lines {
    async fn ready(&mut self) {}
}
