//! Base64 in the flavours that clients use.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const ANY_PADDING: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, ANY_PADDING);
const STRICT_URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Decodes as the token header wants it: characters foreign to the alphabet are ignored, padding is
/// optional.
pub(crate) fn decode_lenient(text: &[u8]) -> Option<Vec<u8>> {
    // The usual header is clean; only others pay for the copy.
    if let Ok(decoded) = STANDARD.decode(text) {
        return Some(decoded);
    }
    let clean: Vec<u8> = text
        .iter()
        .copied()
        .filter(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
        .collect();
    STANDARD.decode(clean).ok()
}

/// Decodes URL-safe base64 with or without padding; anything foreign is refused.
pub(crate) fn decode_url(text: &str) -> Option<Vec<u8>> {
    STRICT_URL.decode(text).ok()
}

/// Encodes URL-safe base64 with padding, at the end of `text`.
pub(crate) fn encode_url_padded(bytes: &[u8], text: &mut String) {
    base64::engine::general_purpose::URL_SAFE.encode_string(bytes, text);
}

/// Encodes URL-safe base64 without padding.
pub(crate) fn encode_url(bytes: &[u8]) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// Strict standard base64, on one line.
pub(crate) fn encode(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// MIME base64 as batches have it: a newline after each 60 characters and at the end.
pub(crate) fn encode_mime(bytes: &[u8], text: &mut String) {
    for chunk in bytes.chunks(45) {
        base64::engine::general_purpose::STANDARD.encode_string(chunk, text);
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_decoded_leniently_and_tokens_strictly() {
        assert_eq!(decode_lenient(b"aGk=").unwrap(), b"hi");
        assert_eq!(decode_lenient(b"aG\n k").unwrap(), b"hi");
        assert_eq!(decode_url("aGk").unwrap(), b"hi");
        assert_eq!(decode_url("aGk=").unwrap(), b"hi");
        assert!(decode_url("a\nGk").is_none());
        assert!(decode_url("aGl").is_none(), "trailing bits make two texts for one value");
    }

    #[test]
    fn mime_breaks_lines_after_sixty_characters() {
        let mut text = String::new();
        encode_mime(&[0; 46], &mut text);
        assert_eq!(text, format!("{}\nAA==\n", "A".repeat(60)));
    }
}
