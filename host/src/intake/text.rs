//! Text that comes from a file, made safe to show: one line, no control characters, not too long.

use std::path::Path;

/// How much of a name or a value a message shows.
const SHORT: usize = 96;

/// `text` as a terminal may see it: control characters, invisible ones and line ends escaped, and cut after
/// `max` characters, with an ellipsis that says so.
pub fn printable(text: &str, max: usize) -> String {
    let mut shown = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == max {
            shown.push('…');
            break;
        }
        // `escape_debug` would also escape quotes, which do no harm here and are common in descriptions.
        if matches!(c, '\'' | '"') {
            shown.push(c);
        } else {
            shown.extend(c.escape_debug());
        }
    }
    shown
}

/// A value from a file, for a message.
pub(super) fn short(text: &str) -> String {
    printable(text, SHORT)
}

/// What messages call this file: its name without its folder, which would only push the point of the message
/// out of sight; the full path stands beside the message.
pub(crate) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or(path.as_os_str());
    short(&name.to_string_lossy())
}

/// An error of a parser in the middle of a sentence.
pub(super) fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    // `ELF` and the like stay as they are.
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        assert_eq!(printable("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e", 80), "a\\u{1b}[2Jb\\nc\\u{9b}d\\u{202e}e");
        assert_eq!(printable("it's \"fine\" — ü", 80), "it's \"fine\" — ü");
    }

    #[test]
    fn long_text_is_cut_and_says_so() {
        assert_eq!(printable("abcdef", 3), "abc…");
        assert_eq!(printable("abc", 3), "abc");
    }

    #[test]
    fn parser_errors_start_small_but_abbreviations_stay() {
        assert_eq!(lower_first("Invalid ELF header"), "invalid ELF header");
        assert_eq!(lower_first("ELF header"), "ELF header");
    }
}
