//! SSH keys of people, as a directory holds them (`sshPublicKey`) and as policy takes them. Pure.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::credentials::hex;
use crate::token::sha256;

/// Most keys of one user.
const KEYS_MAX: usize = 64;
/// Longest line that is taken, in bytes: RSA of 16,384 bits.
const LINE_BYTES_MAX: usize = 4096;
/// Longest first part of a key's name, in bytes.
const WORD_BYTES_MAX: usize = 64;
/// Stands in the name of every key that comes from a directory, before the digits that tell which key it is.
const MARK: &str = "-ldap-";
/// Digits after the mark.
const DIGITS: usize = 16;
const TYPES: [&str; 7] = [
    "ssh-rsa",
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// The keys among some values, by name, each as one line of type, key and name; and why the others are none.
///
/// A name is the comment's, where that is one plain word, and digits of the key: so another key has another name,
/// and the same key the same.
pub(super) fn read(values: &[String]) -> (BTreeMap<String, String>, Vec<String>) {
    let (mut keys, mut others) = (BTreeMap::new(), Vec::new());
    for value in values {
        match line(value) {
            Ok(_) if keys.len() == KEYS_MAX => {
                others.push(format!("a user has {KEYS_MAX} keys at most"));
            }
            Ok((name, line)) => {
                keys.insert(name, line);
            }
            Err(why) => others.push(why.to_owned()),
        }
    }
    (keys, others)
}

/// Whether a key of this name came from a directory.
pub(super) fn is_ours(name: &str) -> bool {
    name.rsplit_once(MARK).is_some_and(|(word, digits)| {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        !word.is_empty() && digits.len() == DIGITS && digits.bytes().all(is_digit)
    })
}

fn line(value: &str) -> Result<(String, String), &'static str> {
    if value.len() > LINE_BYTES_MAX {
        return Err("it is too long");
    }
    let mut words = value.split_whitespace();
    let (Some(kind), Some(key)) = (words.next(), words.next()) else {
        return Err("it is not a type and a key");
    };
    if !TYPES.contains(&kind) {
        return Err("it does not begin with a type of key, such as ssh-ed25519");
    }
    let bytes = STANDARD.decode(key).map_err(|_| "its key is not in base64")?;
    // The key begins with its type, and that with its length (RFC 4253, 6.6).
    let length = bytes.first_chunk().map(|length| u32::from_be_bytes(*length) as usize);
    let named = length.and_then(|length| bytes.get(4..)?.get(..length));
    if named != Some(kind.as_bytes()) {
        return Err("its key is not of the type that it names");
    }
    let is_plain = |word: &&str| {
        let is_fit =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'@');
        word.len() <= WORD_BYTES_MAX && word.bytes().all(is_fit) && !matches!(*word, "." | "..")
    };
    let word = match (words.next().filter(is_plain), words.next()) {
        (Some(word), None) => word,
        _ => "key",
    };
    let name = format!("{word}{MARK}{}", hex(&sha256(&bytes)[..DIGITS / 2]));
    let line = format!("{kind} {key} {name}");
    Ok((name, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str, body: &[u8]) -> String {
        let length = u32::try_from(kind.len()).unwrap().to_be_bytes();
        format!("{kind} {}", STANDARD.encode([&length, kind.as_bytes(), body].concat()))
    }

    #[test]
    fn keys_have_names_that_tell_them_apart_and_what_is_no_key_is_told_of() {
        let (ed, rsa) = (key("ssh-ed25519", b"one"), key("ssh-rsa", b"two"));
        let values = [
            format!("{ed} laptop"),
            format!("  {rsa}   ann at home  "),
            format!("{rsa} desk"),
            format!("{ed} a/b"),
            "ssh-rsa".to_owned(),
            format!("from=\"10.0.0.1\" {ed}"),
            "ssh-ed25519 ??? x".to_owned(),
            format!("ssh-rsa {} x", ed.split(' ').nth(1).unwrap()),
            format!("ssh-dss {} x", ed.split(' ').nth(1).unwrap()),
            "ssh-rsa AAAA x".to_owned(),
            format!("{ed} {}", "x".repeat(4096)),
        ];
        let (keys, others) = read(&values);
        let names: Vec<&str> = keys.keys().map(String::as_str).collect();
        let digits = |name: &str| name.rsplit_once(MARK).unwrap().1.to_owned();
        assert_eq!(names.len(), 4);
        for (name, word) in names.iter().zip(["desk", "key", "key", "laptop"]) {
            assert_eq!(name.rsplit_once(MARK).unwrap().0, word);
            assert!(is_ours(name), "{name}");
            assert!(keys[*name].ends_with(name) && keys[*name].split(' ').count() == 3);
        }
        assert_ne!(digits(names[1]), digits(names[2]), "of two keys");
        assert_ne!(digits(names[0]), digits(names[3]), "of two keys");
        let of_desk = names.iter().filter(|name| digits(name) == digits(names[0])).count();
        assert_eq!(of_desk, 2, "of one key");
        assert_eq!(others.len(), 7, "{others:?}");
        let many: Vec<String> = (0..70_u8).map(|at| key("ssh-ed25519", &[at])).collect();
        let (keys, others) = read(&many);
        assert_eq!((keys.len(), others.len()), (64, 6));
    }

    #[test]
    fn only_names_with_the_mark_and_digits_are_ours() {
        for name in [
            "laptop",
            "x-ldap-",
            "x-ldap-0123456789abcde",
            "-ldap-0123456789abcdef",
            "x-ldap-0123456789abcdeF",
        ] {
            assert!(!is_ours(name), "{name}");
        }
        assert!(is_ours("my-ldap-key-ldap-0123456789abcdef"));
    }
}
