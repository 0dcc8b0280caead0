//! Unary gRPC over HTTP/2 with prior knowledge of what it will send: the frames of a request are built once, and
//! per request only the stream's number changes.
//!
//! ```text
//! request = HEADERS (END_HEADERS)  +  DATA (END_STREAM: 0, length u32 BE, message)
//! answer  = HEADERS, DATA (message), HEADERS (END_STREAM)     done
//!           HEADERS (END_STREAM), without any DATA            refused: a unary call has a message only on success
//! ```
//!
//! The first request carries its header fields as text and lets the server index them; every later one is six
//! indices, as an ordinary client of long standing would send. Header blocks of answers are not decoded.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::Reply;

const FRAME_HEAD: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const FRAME_BYTES_MAX: usize = 1 << 20;

/// `:method POST`, `:scheme https` from HPACK's static table; then the four fields that the first request
/// added to the dynamic one (newest is 62): path, authority, content-type, te.
const INDEXED_FIELDS: [u8; 6] = [0x83, 0x87, 0xc1, 0xc0, 0xbf, 0xbe];

/// The same as text, with incremental indexing.
fn literal_fields(path: &str, authority: &str) -> Vec<u8> {
    // Index 4 is `:path`, 1 `:authority`, 31 `content-type`; `te` has no entry, so its name is text.
    let mut block = vec![0x83, 0x87];
    block.push(0x40 | 4);
    push_text(&mut block, path);
    block.push(0x40 | 1);
    push_text(&mut block, authority);
    block.push(0x40 | 31);
    push_text(&mut block, "application/grpc");
    block.push(0x40);
    push_text(&mut block, "te");
    push_text(&mut block, "trailers");
    block
}

fn push_text(block: &mut Vec<u8>, text: &str) {
    // Seven bits of length are enough for the names here; HPACK continues above 126.
    block.push(u8::try_from(text.len()).unwrap_or(0).min(126));
    block.extend_from_slice(&text.as_bytes()[..text.len().min(126)]);
}

fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The frames of one request on stream 0, to be renumbered by each sending.
pub(super) fn frames(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 32);
    push_frame(&mut out, HEADERS, END_HEADERS, 0, &INDEXED_FIELDS);
    let mut payload = vec![0];
    payload.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    payload.extend_from_slice(message);
    push_frame(&mut out, DATA, END_STREAM, 0, &payload);
    out
}

const HEADERS_FRAME: usize = FRAME_HEAD + INDEXED_FIELDS.len();

/// etcd's `PutRequest`: field 1 key, field 2 value.
pub fn put_message(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(key.len() + value.len() + 8);
    push_field(&mut message, 1, key);
    push_field(&mut message, 2, value);
    message
}

/// etcd's `RangeRequest` for one key: field 1 key. Linearizable, as is the default.
pub fn range_message(key: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(key.len() + 4);
    push_field(&mut message, 1, key);
    message
}

/// A length-delimited protobuf field (wire type 2).
fn push_field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.push(low_byte(length) | 0x80);
        length >>= 7;
    }
    message.push(low_byte(length));
    message.extend_from_slice(bytes);
}

fn low_byte(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

/// A connection that speaks gRPC to one method.
pub struct Grpc {
    stream: TlsStream<TcpStream>,
    first_fields: Option<Vec<u8>>,
    next_stream: u32,
    buffer: Vec<u8>,
    filled: usize,
    pending: Vec<u8>,
}

impl Grpc {
    /// Sends the preface, our settings, and a window that no run of answers will use up.
    pub(super) async fn start(
        mut stream: TlsStream<TcpStream>,
        authority: &str,
        path: &str,
    ) -> io::Result<Self> {
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // ENABLE_PUSH (2) = 0.
        push_frame(&mut hello, SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0]);
        push_frame(&mut hello, WINDOW_UPDATE, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes());
        stream.write_all(&hello).await?;
        stream.flush().await?;
        Ok(Self {
            stream,
            first_fields: Some(literal_fields(path, authority)),
            next_stream: 1,
            buffer: vec![0; 16 << 10],
            filled: 0,
            pending: Vec::new(),
        })
    }

    pub(super) async fn exchange(&mut self, frames: &mut [u8]) -> io::Result<Reply> {
        let stream_id = self.next_stream;
        self.next_stream += 2;
        let number = stream_id.to_be_bytes();
        frames[5..FRAME_HEAD].copy_from_slice(&number);
        frames[HEADERS_FRAME + 5..HEADERS_FRAME + FRAME_HEAD].copy_from_slice(&number);
        if let Some(fields) = self.first_fields.take() {
            push_frame(&mut self.pending, HEADERS, END_HEADERS, stream_id, &fields);
            self.pending.extend_from_slice(&frames[HEADERS_FRAME..]);
            self.send_pending().await?;
        } else if self.pending.is_empty() {
            self.stream.write_all(frames).await?;
            self.stream.flush().await?;
        } else {
            self.pending.extend_from_slice(frames);
            self.send_pending().await?;
        }
        self.answer(stream_id).await
    }

    async fn answer(&mut self, stream_id: u32) -> io::Result<Reply> {
        let mut message_bytes = 0;
        loop {
            let mut at = 0;
            let mut outcome = None;
            while let Some((frame, next)) = split_frame(&self.buffer[..self.filled], at)? {
                at = next;
                match frame.kind {
                    SETTINGS if frame.flags & ACK == 0 => {
                        push_frame(&mut self.pending, SETTINGS, ACK, 0, &[]);
                    }
                    PING if frame.flags & ACK == 0 => {
                        push_frame(&mut self.pending, PING, ACK, 0, frame.payload);
                    }
                    GOAWAY => return Err(io::Error::other("the server said GOAWAY")),
                    DATA if frame.stream == stream_id => message_bytes += frame.payload.len(),
                    RST_STREAM if frame.stream == stream_id => {
                        outcome = Some(Reply::Failure("stream reset".to_owned()));
                    }
                    _ => {}
                }
                let ends = matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0;
                if frame.stream == stream_id && ends {
                    outcome = Some(if message_bytes >= 5 {
                        Reply::Success
                    } else {
                        Reply::Failure("gRPC status other than OK".to_owned())
                    });
                }
            }
            self.buffer.copy_within(at..self.filled, 0);
            self.filled -= at;
            if let Some(reply) = outcome {
                // Acknowledgements travel with the next request.
                return Ok(reply);
            }
            self.send_pending().await?;
            if self.filled == self.buffer.len() {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
            let count = self.stream.read(&mut self.buffer[self.filled..]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.filled += count;
        }
    }

    async fn send_pending(&mut self) -> io::Result<()> {
        if !self.pending.is_empty() {
            self.stream.write_all(&self.pending).await?;
            self.stream.flush().await?;
            self.pending.clear();
        }
        Ok(())
    }
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

/// The frame at `at` and where the next one begins, or nothing while it is not whole.
fn split_frame(bytes: &[u8], at: usize) -> io::Result<Option<(Frame<'_>, usize)>> {
    let Some([a, b, c, kind, flags, s0, s1, s2, s3]) =
        bytes.get(at..at + FRAME_HEAD).and_then(|head| <[u8; FRAME_HEAD]>::try_from(head).ok())
    else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, a, b, c]) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "HTTP/2 frame too large"));
    }
    let start = at + FRAME_HEAD;
    let Some(payload) = bytes.get(start..start + length) else { return Ok(None) };
    let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
    Ok(Some((Frame { kind, flags, stream, payload }, start + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_request_has_the_bytes_that_etcd_expects() {
        let message = put_message(b"k1", &[0x61; 200]);
        // 0a 02 "k1", 12 c8 01 (200 as a varint), then the value.
        assert_eq!(&message[..7], &[0x0a, 0x02, b'k', b'1', 0x12, 0xc8, 0x01]);
        assert_eq!(message.len(), 7 + 200);
        assert_eq!(range_message(b"k1"), [0x0a, 0x02, b'k', b'1']);
    }

    #[test]
    fn the_frames_of_a_request_are_golden() {
        let frames = frames(&put_message(b"k", b"v"));
        let golden: [&[u8]; 4] = [
            &[0, 0, 6, 1, 4, 0, 0, 0, 0],
            &[0x83, 0x87, 0xc1, 0xc0, 0xbf, 0xbe],
            &[0, 0, 11, 0, 1, 0, 0, 0, 0],
            &[0, 0, 0, 0, 6, 0x0a, 1, b'k', 0x12, 1, b'v'],
        ];
        assert_eq!(frames, golden.concat());
    }

    #[test]
    fn the_first_header_block_is_golden() {
        let block = literal_fields("/p.S/M", "localhost");
        let golden: [&[u8]; 6] = [
            &[0x83, 0x87, 0x44, 6],
            b"/p.S/M",
            &[0x41, 9],
            b"localhost",
            &[0x5f, 16],
            b"application/grpc\x40\x02te\x08trailers",
        ];
        assert_eq!(block, golden.concat());
    }

    #[test]
    fn frames_are_split_only_when_whole() {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, PING, 0, 0, &[7; 8]);
        push_frame(&mut bytes, DATA, END_STREAM, 3, b"hello");
        let (ping, next) = split_frame(&bytes, 0).unwrap().unwrap();
        assert_eq!((ping.kind, ping.payload), (PING, &[7; 8][..]));
        assert!(split_frame(&bytes[..bytes.len() - 1], next).unwrap().is_none());
        let (data, end) = split_frame(&bytes, next).unwrap().unwrap();
        assert_eq!((data.stream, data.payload, end), (3, &b"hello"[..], bytes.len()));
        assert!(split_frame(&[0xff; 9], 0).is_err());
    }
}
