//! The values of a record's fields.
#![forbid(unsafe_code)]

use std::fmt::{self, Write};

use oxide_plugin_api::ffi::host_table::{LogField, field_kind};
use tracing_core::field::{DisplayValue, Value, display};

use super::text;

/// How long the text of the fields without a place of their own may get.
const MAX_MORE: usize = 8 * 1024;

/// One field's value.
pub(super) enum Held<'a> {
    Nothing,
    Str(&'a str),
    Debug(DisplayValue<&'a str>),
    I64(i64),
    U64(u64),
    F64(f64),
    Bool(bool),
}

impl<'a> Held<'a> {
    pub(super) fn of(field: &'a LogField<'_>) -> Self {
        match field.kind {
            field_kind::EMPTY => Self::Nothing,
            field_kind::STR => Self::Str(text(&field.text)),
            field_kind::I64 => Self::I64(field.bits.cast_signed()),
            field_kind::U64 => Self::U64(field.bits),
            field_kind::F64 => Self::F64(f64::from_bits(field.bits)),
            field_kind::BOOL => Self::Bool(field.bits != 0),
            // Also a kind that a later plugin API may have added: its text says the most.
            _ => Self::Debug(display(text(&field.text))),
        }
    }

    pub(super) fn value(&self) -> Option<&dyn Value> {
        Some(match self {
            Self::Nothing => return None,
            Self::Str(value) => value,
            Self::Debug(value) => value,
            Self::I64(value) => value,
            Self::U64(value) => value,
            Self::F64(value) => value,
            Self::Bool(value) => value,
        })
    }
}

/// Fields without a place of their own, as one text: `a=1 b="two"`. It is cut when it gets too long.
#[derive(Default)]
pub(super) struct More(String);

impl More {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn add(&mut self, name: &str, value: &Held<'_>) {
        let space = if self.is_empty() { "" } else { " " };
        // The one error is that there is no more room.
        let _ = match value {
            Held::Nothing => Ok(()),
            Held::Str(value) => write!(self, "{space}{name}={value:?}"),
            Held::Debug(value) => write!(self, "{space}{name}={value}"),
            Held::I64(value) => write!(self, "{space}{name}={value}"),
            Held::U64(value) => write!(self, "{space}{name}={value}"),
            Held::F64(value) => write!(self, "{space}{name}={value}"),
            Held::Bool(value) => write!(self, "{space}{name}={value}"),
        };
    }
}

impl Write for More {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = MAX_MORE.saturating_sub(self.0.len());
        if room == 0 {
            return Err(fmt::Error);
        }
        if text.len() <= room {
            self.0.push_str(text);
            return Ok(());
        }
        let cut = (0..=room).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        self.0.push_str(&text[..cut]);
        // At least as long as what the cut left free, so that nothing follows it.
        self.0.push('…');
        Err(fmt::Error)
    }
}
