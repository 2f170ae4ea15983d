//! What the message bus promises, seen from outside. No test is decided by a clock.

mod delivery;
mod request;
mod support;
mod waiting;
