//! HTTP/1.1 with keep-alive, as a client that trusts its server on loopback: enough of RFC 9112 to find the end
//! of an answer (by `Content-Length`, chunks, or a status that has no body).

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::Reply;

/// No answer that the benchmark waits for is larger.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const FAILURE_BODY_BYTES: usize = 300;

/// A connection that speaks HTTP/1.1.
pub struct Http1 {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
    filled: usize,
}

/// A whole answer.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Body, chunks joined.
    pub body: Vec<u8>,
}

impl Response {
    /// The body as text, broken bytes replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    framing: Framing,
    /// Bytes up to and including the empty line.
    length: usize,
}

impl Http1 {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, buffer: vec![0; 16 << 10], filled: 0 }
    }

    /// One exchange; the body is skipped unless the status is not 2xx.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> io::Result<Reply> {
        let (head, body) = self.round_trip(request).await?;
        let reply = if (200..300).contains(&head.status) {
            Reply::Success
        } else {
            let body = match &body {
                Some(chunks) => chunks,
                None => &self.buffer[head.length..self.filled],
            };
            let body = &body[..body.len().min(FAILURE_BODY_BYTES)];
            Reply::Failure(format!("{} {}", head.status, String::from_utf8_lossy(body)))
        };
        self.filled = 0;
        Ok(reply)
    }

    /// One exchange with the whole body.
    pub(super) async fn exchange_whole(&mut self, request: &[u8]) -> io::Result<Response> {
        let (head, chunks) = self.round_trip(request).await?;
        let body = chunks.unwrap_or_else(|| self.buffer[head.length..self.filled].to_vec());
        self.filled = 0;
        Ok(Response { status: head.status, body })
    }

    /// Leaves head and body in the buffer; a chunked body is returned apart.
    async fn round_trip(&mut self, request: &[u8]) -> io::Result<(Head, Option<Vec<u8>>)> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let mut searched = 0;
        let head = loop {
            self.fill().await?;
            if let Some(length) = head_end(&self.buffer[..self.filled], searched) {
                break parse_head(&self.buffer[..length])?;
            }
            searched = self.filled.saturating_sub(3);
        };
        match head.framing {
            Framing::Length(length) => {
                while self.filled < head.length + length {
                    self.fill().await?;
                }
                if self.filled > head.length + length {
                    return Err(bad("more bytes than the answer has"));
                }
                Ok((head, None))
            }
            Framing::Chunked => loop {
                if let Some(body) = join_chunks(&self.buffer[head.length..self.filled])? {
                    return Ok((head, Some(body)));
                }
                self.fill().await?;
            },
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            if self.buffer.len() >= ANSWER_BYTES_MAX {
                return Err(bad("answer too large"));
            }
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        let count = self.stream.read(&mut self.buffer[self.filled..]).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.filled += count;
        Ok(())
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The length of the head including its empty line, searching from `from`.
fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    bytes[from..].windows(4).position(|four| four == b"\r\n\r\n").map(|at| from + at + 4)
}

fn parse_head(head: &[u8]) -> io::Result<Head> {
    let status = match head {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', a, b, c, ..]
            if [a, b, c].iter().all(|digit| digit.is_ascii_digit()) =>
        {
            [a, b, c].iter().fold(0, |sum, digit| sum * 10 + u16::from(**digit - b'0'))
        }
        _ => return Err(bad("not an HTTP/1.1 status line")),
    };
    let mut framing = Framing::Length(0);
    for line in head.split(|byte| *byte == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            framing = Framing::Length(length.ok_or_else(|| bad("not a Content-Length"))?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding")
            && value.eq_ignore_ascii_case(b"chunked")
        {
            framing = Framing::Chunked;
            break;
        }
    }
    Ok(Head { status, framing, length: head.len() })
}

/// The joined body, or nothing while the last chunk has not come.
fn join_chunks(mut bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut body = Vec::new();
    loop {
        let Some(line_end) = bytes.windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        let digits = bytes[..line_end].split(|byte| *byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(digits)
            .ok()
            .and_then(|text| usize::from_str_radix(text.trim(), 16).ok())
            .filter(|size| *size <= ANSWER_BYTES_MAX)
            .ok_or_else(|| bad("not a chunk size"))?;
        let data = &bytes[line_end + 2..];
        if data.len() < size + 2 {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(body));
        }
        body.extend_from_slice(&data[..size]);
        bytes = &data[size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_whatever_the_case_of_their_names() {
        let head = b"HTTP/1.1 201 Created\r\nX: y\r\ncontent-LENGTH:  17 \r\n\r\n";
        assert_eq!(head_end(head, 0), Some(head.len()));
        assert_eq!(head_end(&head[..head.len() - 1], 0), None);
        assert_eq!(
            parse_head(head).unwrap(),
            Head { status: 201, framing: Framing::Length(17), length: head.len() }
        );
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(parse_head(chunked).unwrap().framing, Framing::Chunked);
        assert!(parse_head(b"SSH-2.0\r\n\r\n").is_err());
        assert!(parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n").is_err());
    }

    #[test]
    fn chunks_are_joined_once_the_last_is_there() {
        let whole = b"4\r\nWiki\r\n5;ext=1\r\npedia\r\n0\r\n\r\n";
        assert_eq!(join_chunks(whole).unwrap().unwrap(), b"Wikipedia");
        for length in 0..whole.len() {
            assert_eq!(join_chunks(&whole[..length]).unwrap(), None, "at {length}");
        }
        assert!(join_chunks(b"zz\r\n").is_err());
    }
}
