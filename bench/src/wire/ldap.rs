//! Simple binds of LDAP (RFC 4511) on a kept connection, as `ldapwhoami` makes them: what a directory can
//! do at most for whoever asks it about passwords.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::Reply;

/// Tags of BER: a sequence, an integer, an octet string, an enumeration.
const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
/// A bind request, its simple password, and a bind response.
const BIND: u8 = 0x60;
const SIMPLE: u8 = 0x80;
const BOUND: u8 = 0x61;
/// No answer to a bind is longer; lengths up to here take three bytes at most.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// A connection that binds, again and again.
pub struct Ldap {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

/// A bind as somebody. The number of the message is always the same: the one before is answered by then.
pub(super) fn bind(dn: &str, password: &str) -> Vec<u8> {
    let mut request = element(INTEGER, &[3]);
    request.extend(element(OCTETS, dn.as_bytes()));
    request.extend(element(SIMPLE, password.as_bytes()));
    let mut message = element(INTEGER, &[1]);
    message.extend(element(BIND, &request));
    element(SEQUENCE, &message)
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    let [high, low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    match (high, low) {
        (0, 0..=0x7f) => bytes.push(low),
        (0, _) => bytes.extend([0x81, low]),
        _ => bytes.extend([0x82, high, low]),
    }
    bytes.extend_from_slice(content);
    bytes
}

/// Tag, content and what follows; nothing while it is not whole.
fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// What a whole answer says.
fn read(message: &[u8]) -> Option<Reply> {
    let (_, _, rest) = split(message)?;
    let (BOUND, response, _) = split(rest)? else { return None };
    let (ENUMERATED, [code], rest) = split(response)? else { return None };
    if *code == 0 {
        return Some(Reply::Success);
    }
    let (_, _, rest) = split(rest)?;
    let (_, words, _) = split(rest)?;
    Some(Reply::Failure(format!("result {code} {}", String::from_utf8_lossy(words))))
}

impl Ldap {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, buffer: Vec::with_capacity(ANSWER_BYTES_MAX) }
    }

    pub(super) async fn exchange(&mut self, request: &[u8]) -> io::Result<Reply> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        self.buffer.clear();
        loop {
            if let Some((SEQUENCE, message, _)) = split(&self.buffer) {
                return read(message).ok_or_else(|| io::Error::other("no answer to a bind"));
            }
            if self.buffer.len() > ANSWER_BYTES_MAX {
                return Err(io::Error::other("a long answer to a bind"));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bind_is_byte_for_byte_what_it_should_be() {
        let expected = b"\x30\x12\x02\x01\x01\x60\x0d\x02\x01\x03\x04\x04cn=a\x80\x02pw";
        assert_eq!(bind("cn=a", "pw"), expected);
        let long = bind("cn=a", &"p".repeat(300));
        assert_eq!(
            split(&long).map(|(_, content, rest)| (content.len(), rest.len())),
            Some((long.len() - 4, 0))
        );
    }

    #[test]
    fn answers_are_read_when_they_are_whole() {
        let good = b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00";
        let (_, message, _) = split(good).unwrap();
        assert_eq!(read(message), Some(Reply::Success));
        assert_eq!(split(&good[..9]), None);
        let bad = b"\x30\x0e\x02\x01\x01\x61\x09\x0a\x01\x31\x04\x00\x04\x02no";
        let (_, message, _) = split(bad).unwrap();
        assert_eq!(read(message), Some(Reply::Failure("result 49 no".to_owned())));
    }
}
