//! What a plain scalar is taken for: the YAML 1.1 guesses that people's policies rely on.

/// A plain scalar's guessed type, with the text that its value reads as where that may differ.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Guess {
    /// Text as it stands.
    Text,
    /// A whole number, in decimal.
    Integer(String),
    /// A number with a fraction or exponent.
    Float(String),
    /// Yes or no.
    Boolean(bool),
    /// Nothing.
    Null,
    /// A date, as it stands.
    Date,
}

impl Guess {
    /// The name of the type in error messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Text => "String",
            Self::Integer(_) => "Integer",
            Self::Float(_) => "Float",
            Self::Boolean(true) => "TrueClass",
            Self::Boolean(false) => "FalseClass",
            Self::Null => "NilClass",
            Self::Date => "Date",
        }
    }

    /// The value as text; `written` is the scalar itself.
    pub(super) fn into_text(self, written: &str) -> String {
        match self {
            Self::Text | Self::Date => written.to_owned(),
            Self::Integer(text) | Self::Float(text) => text,
            Self::Boolean(value) => value.to_string(),
            Self::Null => String::new(),
        }
    }
}

/// Guesses the type of a plain scalar.
pub(super) fn guess(text: &str) -> Guess {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Guess::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            return Guess::Boolean(true);
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Guess::Boolean(false);
        }
        _ => {}
    }
    // Most scalars are names: decide those by their first character.
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Guess::Text;
    }
    integer(text)
        .map(Guess::Integer)
        .or_else(|| float(text).map(Guess::Float))
        .or_else(|| is_date(text).then_some(Guess::Date))
        .unwrap_or(Guess::Text)
}

fn split_sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn integer(text: &str) -> Option<String> {
    let (negative, digits) = split_sign(text);
    let value = if let Some(hex) = digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        radix(hex, 16)?
    } else if let Some(binary) = digits.strip_prefix("0b") {
        radix(binary, 2)?
    } else if let Some(octal) = digits.strip_prefix("0o") {
        radix(octal, 8)?
    } else if digits.len() > 1 && digits.starts_with('0') {
        radix(&digits[1..], 8)?
    } else {
        let decimal = digits.starts_with(|c: char| c.is_ascii_digit())
            && digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '_' | ','));
        if !decimal {
            return None;
        }
        digits.chars().filter(char::is_ascii_digit).collect()
    };
    Some(if negative && value != "0" { format!("-{value}") } else { value })
}

fn radix(digits: &str, radix: u32) -> Option<String> {
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    if plain.starts_with(['+', '-']) {
        return None;
    }
    u128::from_str_radix(&plain, radix).ok().map(|value| value.to_string())
}

fn float(text: &str) -> Option<String> {
    let (negative, rest) = split_sign(text);
    if matches!(rest, ".inf" | ".Inf" | ".INF") {
        return Some(if negative { "-Infinity" } else { "Infinity" }.to_owned());
    }
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some("NaN".to_owned());
    }
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        // Only a signed exponent is one: `1e3` is text, as is `12e5af`.
        Some((mantissa, exponent)) if exponent.starts_with(['+', '-']) => {
            (mantissa, Some(&exponent[1..]))
        }
        Some(_) => return None,
        None => (rest, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.chars().all(|c| c.is_ascii_digit() || c == '_');
    let counts = |part: &str| part.contains(|c: char| c.is_ascii_digit());
    let valid = digits(whole)
        && digits(fraction)
        && (counts(whole) || counts(fraction))
        && exponent.is_none_or(|e| !e.is_empty() && e.chars().all(|c| c.is_ascii_digit()));
    if !valid || (exponent.is_none() && !mantissa.contains('.')) {
        return None;
    }
    let plain: String = text.chars().filter(|c| *c != '_').collect();
    plain.parse::<f64>().ok().map(float_text)
}

/// A float as Ruby writes it, which is what annotation values made by Conjur look like.
fn float_text(value: f64) -> String {
    let magnitude = value.abs();
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let point = if mantissa.contains('.') { "" } else { ".0" };
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', exponent),
        };
        return format!("{mantissa}{point}e{sign}{digits:0>2}");
    }
    let text = format!("{value}");
    if text.contains('.') { text } else { format!("{text}.0") }
}

/// `YYYY-MM-DD`, alone or with a time after it.
fn is_date(text: &str) -> bool {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    };
    let mut parts = date.split('-');
    let number = |part: Option<&str>, lengths: std::ops::RangeInclusive<usize>| {
        part.filter(|p| lengths.contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|p| p.parse::<u32>().ok())
    };
    let (year, month, day) =
        (number(parts.next(), 4..=4), number(parts.next(), 1..=2), number(parts.next(), 1..=2));
    let dated = year.is_some()
        && month.is_some_and(|m| (1..=12).contains(&m))
        && day.is_some_and(|d| (1..=31).contains(&d))
        && parts.next().is_none();
    dated
        && (date.len() == text.len()
            || (time.contains(':')
                && time
                    .chars()
                    .all(|c| c.is_ascii_digit() || matches!(c, ':' | '.' | '+' | '-' | 'Z' | ' '))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (&'static str, String) {
        let guess = guess(text);
        (guess.type_name(), guess.into_text(text))
    }

    #[test]
    fn plain_scalars_are_guessed_as_yaml_1_1() {
        let cases = [
            ("alice", "String", "alice"),
            ("123", "Integer", "123"),
            ("+5", "Integer", "5"),
            ("-0", "Integer", "0"),
            ("1_000", "Integer", "1000"),
            ("010", "Integer", "8"),
            ("0x1F", "Integer", "31"),
            ("0b101", "Integer", "5"),
            ("089", "String", "089"),
            ("123456789012345678901234567890", "Integer", "123456789012345678901234567890"),
            ("1.10", "Float", "1.1"),
            ("1.", "Float", "1.0"),
            (".5", "Float", "0.5"),
            ("1e3", "String", "1e3"),
            ("1.0e+3", "Float", "1000.0"),
            ("1.0e+20", "Float", "1.0e+20"),
            ("1.5e-7", "Float", "1.5e-07"),
            ("1.2.3", "String", "1.2.3"),
            ("10.0.0.1", "String", "10.0.0.1"),
            (".inf", "Float", "Infinity"),
            ("-.inf", "Float", "-Infinity"),
            (".nan", "Float", "NaN"),
            ("yes", "TrueClass", "true"),
            ("Off", "FalseClass", "false"),
            ("yEs", "String", "yEs"),
            ("~", "NilClass", ""),
            ("", "NilClass", ""),
            ("null", "NilClass", ""),
            ("2020-01-02", "Date", "2020-01-02"),
            ("2020-13-02", "String", "2020-13-02"),
            ("2020-01-02 10:00:00", "Date", "2020-01-02 10:00:00"),
            ("12-factor", "String", "12-factor"),
            ("-", "String", "-"),
            (".", "String", "."),
            ("+", "String", "+"),
            ("0", "Integer", "0"),
        ];
        for (text, type_name, value) in cases {
            assert_eq!(read(text), (type_name, value.to_owned()), "{text:?}");
        }
    }
}
