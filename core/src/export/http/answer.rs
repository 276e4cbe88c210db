//! The answer: its status, what it asks for, and as much of its body as is of use.

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use super::after;

/// The longest head.
const MOST_HEAD: usize = 32 << 10;
const MOST_HEADERS: usize = 100;
/// Provisional answers before the real one.
const MOST_PROVISIONAL: usize = 8;
/// What is read of the body of an answer that is no success, for the error that it becomes, and how long it may take.
const ERROR_BODY: usize = 2 << 10;
const ERROR_TIME: Duration = Duration::from_secs(1);
/// The last chunk, where no trailers follow.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[derive(Debug, Default)]
pub(in super::super) struct Answer {
    pub(in super::super) status: u16,
    /// How long the other side wants to be left alone.
    pub(in super::super) retry_after: Option<Duration>,
    /// In lower case, without parameters.
    pub(in super::super) content_type: String,
    /// Its beginning.
    pub(in super::super) body: Vec<u8>,
}

impl Answer {
    pub(in super::super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// How the end of a body is told.
#[derive(Debug, Default, PartialEq, Eq)]
enum Length {
    #[default]
    UntilClosed,
    Bytes(u64),
    Chunked,
}

/// The head of an answer.
struct Head {
    /// Without its body.
    answer: Answer,
    length: Length,
    /// What it takes of the buffer.
    used: usize,
    /// The connection stays open behind the answer.
    stays: bool,
}

/// Reads an answer, of whose body no more than `wanted` if it is a success and says how long it is; and says whether the next
/// request can go by the same connection. A body that breaks off is not an error: the status says what became of the request.
pub(super) fn read(wire: &mut super::Wire, wanted: usize) -> io::Result<(Answer, bool)> {
    let mut buffer = Vec::new();
    for _ in 0..MOST_PROVISIONAL {
        let Head { mut answer, length, used, stays } = head(wire, &mut buffer)?;
        buffer.drain(..used);
        if (100..200).contains(&answer.status) {
            continue;
        }
        let most = match (answer.is_success(), &length) {
            (false, _) => ERROR_BODY,
            // Only the end of the connection would end it, and some servers keep that open.
            (true, Length::UntilClosed) => 0,
            (true, _) => wanted,
        };
        if !answer.is_success() {
            wire.hurry(ERROR_TIME);
        }
        let (body, is_whole) = body(wire, buffer, &length, most);
        answer.body = body;
        return Ok((answer, stays && is_whole));
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "provisional answers without end"))
}

/// The status that a proxy answers a request for a tunnel with. What comes after a yes is the server's, who says nothing before
/// we do.
pub(super) fn of_tunnel(wire: &mut impl Read) -> io::Result<u16> {
    let mut buffer = Vec::new();
    for _ in 0..MOST_PROVISIONAL {
        let Head { answer, used, .. } = head(wire, &mut buffer)?;
        buffer.drain(..used);
        if answer.is_success() && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more than an answer"));
        }
        if !(100..200).contains(&answer.status) {
            return Ok(answer.status);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "provisional answers without end"))
}

/// Reads until there is a head at the beginning of the buffer, and says how long that is.
fn head(wire: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<Head> {
    let mut chunk = [0; 4096];
    loop {
        if let Some(head) = parse(buffer)? {
            return Ok(head);
        }
        if buffer.len() >= MOST_HEAD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer with an endless head"));
        }
        match wire.read(&mut chunk) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")),
            Ok(count) => buffer.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn parse(buffer: &[u8]) -> io::Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let wrong = |_| io::Error::new(io::ErrorKind::InvalidData, "an answer that is not HTTP");
    let httparse::Status::Complete(used) = response.parse(buffer).map_err(wrong)? else { return Ok(None) };
    let mut answer = Answer { status: response.code.unwrap_or_default(), ..Answer::default() };
    let mut length = Length::default();
    // Those of HTTP/1.0 close behind each answer.
    let mut stays = response.version == Some(1);
    for header in response.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        let value = value.trim();
        match header.name.to_ascii_lowercase().as_str() {
            "retry-after" => answer.retry_after = after::parse(value, SystemTime::now()),
            "content-type" => {
                answer.content_type = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            }
            "connection" => {
                stays &= !value.split(',').any(|word| word.trim().eq_ignore_ascii_case("close"));
            }
            "transfer-encoding" => length = Length::Chunked,
            "content-length" if length == Length::UntilClosed => {
                length = value.parse().map_or(Length::UntilClosed, Length::Bytes);
            }
            _ => {}
        }
    }
    if matches!(answer.status, 204 | 304) {
        length = Length::Bytes(0);
    }
    Ok(Some(Head { answer, length, used, stays }))
}

/// The beginning of a body, whose first bytes are in the buffer; and whether that is all of it, and nothing came behind.
fn body(wire: &mut impl Read, mut raw: Vec<u8>, length: &Length, most: usize) -> (Vec<u8>, bool) {
    // Sizes of chunks stand between what is wanted.
    let enough = match length {
        Length::Bytes(length) => usize::try_from(*length).unwrap_or(usize::MAX).min(most),
        Length::Chunked if most > 0 => most.saturating_add(4096),
        _ => most,
    };
    let mut chunk = [0; 4096];
    while raw.len() < enough && !(*length == Length::Chunked && raw.ends_with(LAST_CHUNK)) {
        match wire.read(&mut chunk) {
            Ok(count) if count > 0 => raw.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // What is there is what there is.
            _ => break,
        }
    }
    match length {
        Length::UntilClosed => {
            raw.truncate(most);
            (raw, false)
        }
        Length::Bytes(length) => {
            let is_whole = raw.len() as u64 == *length;
            raw.truncate(enough);
            (raw, is_whole)
        }
        Length::Chunked => {
            let (mut data, is_whole) = unchunked(&raw);
            let is_cut = data.len() > most;
            data.truncate(most);
            (data, is_whole && !is_cut)
        }
    }
}

/// The data of the chunks that are there, and whether the last one is, with nothing behind; where they are wrong, it ends.
fn unchunked(mut raw: &[u8]) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    while let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(raw) {
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let rest = raw.get(start..).unwrap_or_default();
        let chunk = rest.get(..size.min(rest.len())).unwrap_or_default();
        data.extend_from_slice(chunk);
        if size == 0 {
            return (data, rest == b"\r\n");
        }
        if chunk.len() < size {
            break;
        }
        raw = rest.get(size.saturating_add(2)..).unwrap_or_default();
    }
    (data, false)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn body_of(raw: &str, length: &Length, most: usize) -> (String, bool) {
        let (body, is_whole) = body(&mut raw.as_bytes(), Vec::new(), length, most);
        (String::from_utf8(body).unwrap(), is_whole)
    }

    #[test]
    fn bodies_end_where_they_say_and_where_they_are_too_long() {
        for (raw, length, most, body, is_whole) in [
            ("abcdef", Length::Bytes(3), 100, "abc", false),
            ("abc", Length::Bytes(3), 100, "abc", true),
            ("", Length::Bytes(0), 0, "", true),
            ("abcdef", Length::Bytes(u64::MAX), 4, "abcd", false),
            ("abcdef", Length::UntilClosed, 100, "abcdef", false),
            ("abcdef", Length::UntilClosed, 0, "", false),
            ("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", Length::Chunked, 100, "abcde", true),
            ("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", Length::Chunked, 4, "abcd", false),
            ("3\r\nabc\r\n0\r\nx: y\r\n\r\n", Length::Chunked, 100, "abc", false),
            ("3\r\nabc\r\nffffffffffffffff\r\nde", Length::Chunked, 4, "abcd", false),
            ("zz", Length::Chunked, 4, "", false),
        ] {
            assert_eq!(body_of(raw, &length, most), (body.to_string(), is_whole), "{raw:?} {length:?}");
        }
    }

    #[test]
    fn a_connection_stays_open_unless_the_answer_says_otherwise() {
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nconnection: x, close\r\n\r\n", false),
            ("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n\r\n", true),
        ] {
            assert_eq!(parse(head.as_bytes()).unwrap().unwrap().stays, expected, "{head}");
        }
        assert_eq!(parse(b"HTTP/1.1 204 No\r\n\r\n").unwrap().unwrap().length, Length::Bytes(0));
    }

    #[test]
    fn heads_are_read_in_pieces_and_bounded() {
        let text = b"HTTP/1.1 429 Slow\r\nRetry-After: 7\r\nContent-Type: Text/HTML; x\r\nContent-Length: 2\r\n\r\nno";
        for cut in 0..text.len() - 2 {
            assert!(parse(&text[..cut]).unwrap().is_none(), "{cut}");
        }
        let Head { answer, length, used, .. } = parse(text).unwrap().unwrap();
        assert_eq!((answer.status, answer.content_type.as_str(), used), (429, "text/html", text.len() - 2));
        assert_eq!((answer.retry_after, length), (Some(Duration::from_secs(7)), Length::Bytes(2)));
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
        let mut endless = io::repeat(b'a');
        let mut buffer = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
        assert!(head(&mut endless, &mut buffer).is_err());
        assert!(buffer.len() < 40_000);
    }
}
