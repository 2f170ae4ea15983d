//! Text that came from a file, a plugin or a caller, on its way to a terminal.

use std::borrow::Cow;

/// Characters that a terminal acts on, or that change the order in which the rest is read.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The same text with every character that acts written as an escape, on one line.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if acts(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// JSON text with the characters that act written as JSON escapes. In JSON they stand in strings only;
/// the line breaks between tokens stay.
pub(super) fn escape_json(json: &str) -> Cow<'_, str> {
    let acts = |c| acts(c) && c != '\n';
    if !json.contains(acts) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if acts(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// A word as a shell takes it.
pub(super) fn shell_word(word: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "-_.:@%+,/=".contains(c);
    if word.chars().all(plain) && !word.is_empty() {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_for_the_shell_where_it_must_be() {
        assert_eq!(shell_word("echo-2.b"), "echo-2.b");
        assert_eq!(shell_word("my echo"), "'my echo'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }

    #[test]
    fn what_a_terminal_would_act_on_is_escaped() {
        assert_eq!(escape("plain, naïve, 日本"), "plain, naïve, 日本");
        assert_eq!(escape("\u{1b}[31mred\u{7}\r\n"), r"\u{1b}[31mred\u{7}\r\n");
        assert_eq!(escape("c1 \u{9b}2J bidi \u{202e}txt"), r"c1 \u{9b}2J bidi \u{202e}txt");
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({ "a": "\u{9b}2J\u{202e}\u{7f}\u{1b}" });
        let text = serde_json::to_string_pretty(&value).expect("JSON");
        let safe = escape_json(&text);
        assert!(safe.chars().all(|c| c == '\n' || !acts(c)));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).expect("JSON"), value);
    }
}
