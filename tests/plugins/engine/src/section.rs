//! Finds a custom section in a WASM file, of either sort.

/// Its content.
pub(crate) fn custom<'a>(file: &'a [u8], wanted: &str) -> Option<&'a [u8]> {
    let mut rest = file.get(8..)?;
    while let Some((kind, after)) = rest.split_first() {
        let (length, content) = number(after)?;
        let (section, next) = content.split_at_checked(length)?;
        if *kind == 0 {
            let (length, named) = number(section)?;
            let (name, content) = named.split_at_checked(length)?;
            if name == wanted.as_bytes() {
                return Some(content);
            }
        }
        rest = next;
    }
    None
}

/// A number in LEB128, and what follows it.
fn number(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0)? + 1;
    let (digits, rest) = bytes.split_at(length);
    let value = digits
        .iter()
        .rev()
        .try_fold(0usize, |value, digit| Some(value.checked_mul(0x80)? | usize::from(digit & 0x7f)))?;
    Some((value, rest))
}
