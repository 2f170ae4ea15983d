//! The bus as a plugin sees it.

/// placeholder while the FFI room is being written
#[derive(Clone, Debug)]
pub struct MessageBus(());
