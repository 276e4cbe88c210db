//! A client that sends exactly what it is given, and a host process with a server to send it to.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use everprof::Profiler;
use everprof::profiler::Builder;

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// With their names in lower case, in their order.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A profiler that serves on a port of the system's choice, and its address.
pub(crate) fn serving(change: impl FnOnce(Builder) -> Builder) -> (Profiler, String) {
    let dir = crate::common::directory("serve");
    let builder =
        Profiler::builder().dir(dir).set("serve", ":0").set("kinds", "cpu,wall").set("symbolize", "names");
    let profiler = change(builder).set("cpu_budget_percent", "100").start().unwrap();
    let address = profiler.stats().serve_address.expect("it listens");
    (profiler, address)
}

pub(crate) fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

pub(crate) fn get(address: &str, path: &str) -> Response {
    ask(address, "GET", path, "", "").unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One request on a connection of its own; `headers` end in line breaks.
pub(crate) fn ask(
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> io::Result<Response> {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{length}{headers}\r\n{body}"
    );
    send(address, request.as_bytes())
}

/// Sends bytes and reads to the end.
pub(crate) fn send(address: &str, bytes: &[u8]) -> io::Result<Response> {
    let mut stream = connect(address)?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer)
        .ok_or_else(|| io::Error::other(format!("no answer: {:?}", String::from_utf8_lossy(&answer))))
}

/// The first answer in `bytes`. Bodies in chunks, which Go's server sends, are joined.
pub(crate) fn parse(bytes: &[u8]) -> Option<Response> {
    let end = bytes.windows(4).position(|part| part == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_string()))
        .collect();
    let body = bytes[end + 4..].to_vec();
    let mut response = Response { status, headers, body };
    if response.header("transfer-encoding") == "chunked" {
        // To HEAD there is none.
        response.body = if response.body.is_empty() { Vec::new() } else { joined(&response.body)? };
    } else if let Ok(length) = response.header("content-length").parse::<usize>() {
        // The body of an answer to HEAD is not sent.
        response.body.truncate(length);
    }
    Some(response)
}

fn joined(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let end = rest.windows(2).position(|part| part == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..end]).ok()?, 16).ok()?;
        if length == 0 {
            return Some(out);
        }
        out.extend(rest.get(end + 2..end + 2 + length)?);
        rest = &rest[end + 4 + length..];
    }
}
