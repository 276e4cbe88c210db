//! What tests ask servers: GET and POST over HTTP/1.0, whose answer ends with the connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// Status and body.
pub(crate) fn get(port: u16, path: &str) -> std::io::Result<(u16, Vec<u8>)> {
    ask(port, format!("GET {path} HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n").as_bytes())
}

/// The same of POST.
pub(crate) fn post(port: u16, path: &str, kind: &str, body: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.0\r\nhost: 127.0.0.1\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
    );
    ask(port, &[head.as_bytes(), body].concat())
}

fn ask(port: u16, request: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(answer.len());
    let status = String::from_utf8_lossy(answer.get(9..12).unwrap_or_default()).parse().unwrap_or(0);
    Ok((status, answer.get(end + 4..).unwrap_or_default().to_vec()))
}

/// Waits until the server says yes there.
pub(crate) fn wait(port: u16, path: &str) {
    let is_there = (0..600).any(|_| {
        get(port, path).is_ok_and(|(status, _)| status == 200) || {
            thread::sleep(Duration::from_millis(100));
            false
        }
    });
    assert!(is_there, "the server does not answer within a minute");
}

/// Everything but letters and digits as %XX.
pub(crate) fn encoded(text: &str) -> String {
    let one = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

/// Base64 with padding.
pub(crate) fn unbase64(text: &str) -> Vec<u8> {
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = 0u32;
    let mut bytes = Vec::new();
    for (at, letter) in text.trim_end_matches('=').chars().enumerate() {
        bits = bits << 6 | letters.find(letter).unwrap() as u32;
        if at % 4 != 0 {
            bytes.push((bits >> (6 - 2 * (at % 4))) as u8);
        }
    }
    bytes
}
