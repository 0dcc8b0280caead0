//! Paths: split first, decoded after, once.
//!
//! A slash that was percent-encoded belongs to its segment and never separates two; `%252F` is the
//! text `%2F`. Nothing is normalised but what clients are known to send: slashes doubled in the raw
//! path and at its end, and a leading `/api`.

use std::borrow::Cow;

/// The raw segments of a path, as they will be matched.
pub(crate) fn split(path: &str) -> Vec<&str> {
    let mut segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    if segments.first() == Some(&"api") {
        segments.remove(0);
    }
    segments
}

/// Decodes one segment: `%XX` once, `+` stays. Nothing when it is no UTF-8, holds NUL, or a `%` is
/// not followed by two hex digits.
pub(crate) fn decode(segment: &str) -> Option<Cow<'_, str>> {
    if !segment.contains('%') {
        return (!segment.contains('\0')).then_some(Cow::Borrowed(segment));
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let [high, low, after @ ..] = after else { return None };
            bytes.push(hex_digit(*high)? << 4 | hex_digit(*low)?);
            rest = after;
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    let text = String::from_utf8(bytes).ok()?;
    (!text.contains('\0')).then_some(Cow::Owned(text))
}

/// Decodes a greedy tail of segments, joined by the slashes that stood between them.
pub(crate) fn decode_tail(segments: &[&str]) -> Option<String> {
    let mut text = String::new();
    for (at, segment) in segments.iter().enumerate() {
        if at > 0 {
            text.push('/');
        }
        text.push_str(&decode(segment)?);
    }
    Some(text)
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_before_they_are_decoded() {
        let tail = |path: &str| decode_tail(&split(path));
        assert_eq!(split("/api//a/b%2Fc/"), ["a", "b%2Fc"]);
        assert_eq!(split("/api/api/x"), ["api", "x"]);
        assert_eq!(tail("/a%2Fb/c").unwrap(), "a/b/c");
        assert_eq!(tail("/a%252Fb").unwrap(), "a%2Fb");
        assert_eq!(tail("/a%2F%2Fb").unwrap(), "a//b");
        assert_eq!(tail("/a+b;c/../.").unwrap(), "a+b;c/../.");
        assert_eq!(tail("/x%00"), None);
        assert_eq!(tail("/x%ff"), None);
        assert_eq!(tail("/x%2"), None);
        assert_eq!(tail("/x%zz"), None);
    }
}
