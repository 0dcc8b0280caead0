//! Distinguished names in one spelling each, so that a member is known by whatever spelling a group has
//! of it. Pure.

/// The one spelling of a name (RFC 4514): types and values in lower case, escapes as hexadecimal, no
/// spaces that say nothing. Nothing for a text that is no name.
pub(super) fn normal(text: &str) -> Option<String> {
    let mut parts = Vec::new();
    let mut rdn = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        let mut kind = String::new();
        loop {
            match rest.next()? {
                '=' => break,
                c => kind.push(c),
            }
        }
        let kind = kind.trim().to_lowercase();
        if kind.is_empty() {
            return None;
        }
        let mut bytes: Vec<u8> = Vec::new();
        let mut quoted = false;
        let mut end = None;
        while let Some(c) = rest.next() {
            match c {
                '"' => quoted = !quoted,
                '\\' => {
                    let first = rest.next()?;
                    match (first.to_digit(16), rest.peek().and_then(|c| c.to_digit(16))) {
                        (Some(high), Some(low)) => {
                            rest.next();
                            bytes.push(u8::try_from(high * 16 + low).ok()?);
                        }
                        _ => bytes.extend_from_slice(first.encode_utf8(&mut [0; 4]).as_bytes()),
                    }
                }
                ',' | ';' | '+' if !quoted => {
                    end = Some(c);
                    break;
                }
                c => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        let value = String::from_utf8(bytes).ok()?.to_lowercase();
        let words: Vec<&str> = value.split(' ').filter(|word| !word.is_empty()).collect();
        rdn.push(format!("{kind}={}", escaped(&words.join(" "))));
        if end != Some('+') {
            rdn.sort_unstable();
            parts.push(rdn.join("+"));
            rdn.clear();
        }
        if end.is_none() {
            return Some(parts.join(","));
        }
    }
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            ',' | ';' | '+' | '\\' | '"' | '=' => text.extend([format!("\\{:02x}", u32::from(c))]),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_name_are_one() {
        for (one, other) in [
            ("CN=Alice,OU=People,DC=example", "cn=alice, ou = people ,dc=EXAMPLE"),
            ("cn=Doe\\, Jane \\+ \\\"Q\\\",dc=x", "cn=doe\\2C jane \\2b \\22q\\22,dc=x"),
            ("cn=\"a, b\",dc=x", "cn=a\\, b,dc=x"),
            ("cn=zo\\c3\\ab,dc=x", "cn=Zoë,dc=x"),
            ("uid=a+cn=b,dc=x", "cn=B+uid=A;dc=x"),
            ("cn=a  b,dc=x", "cn=a b,dc=x"),
        ] {
            assert_eq!(normal(one).unwrap(), normal(other).unwrap(), "{one} {other}");
        }
        assert_ne!(normal("cn=a\\,b,dc=x"), normal("cn=a,b=c,dc=x"));
        assert_ne!(normal("cn=a,dc=x"), normal("cn=a,dc=y"));
        for bad in ["", "alice", "cn=a,", "=a", "cn=a\\", "cn=\\ff,dc=x"] {
            assert_eq!(normal(bad), None, "{bad}");
        }
    }
}
