//! HTTP/2 by hand, for servers that do as no library would.
#![allow(dead_code, clippy::unwrap_used)] // not all is used by each of the binaries that this is part of

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver};
use std::thread;

/// A frame of HTTP/2.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) fn header(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// The head of an answer of gRPC.
pub(crate) fn head() -> Vec<u8> {
    [&[0x88][..], &header("content-type", "application/grpc")].concat()
}

/// Reads until the call is here whole, or its head alone; and says what it had of a body.
pub(crate) fn take(stream: &mut impl Read, whole: bool) -> Vec<u8> {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).unwrap();
    let mut body = Vec::new();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return body;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if stream.read_exact(&mut payload).is_err() {
            return body;
        }
        if head[3] == DATA {
            body.extend_from_slice(&payload);
        }
        let is_end = head[3] == DATA && head[4] & END_STREAM != 0;
        if is_end || !whole && head[3] == HEADERS {
            return body;
        }
    }
}

/// A server that says yes to the first call of each connection, hands on what it was sent, and goes away.
pub(crate) fn server_that_says_yes() -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (told, asked) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, told) = (stream.unwrap(), told.clone());
            thread::spawn(move || {
                stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
                let _ = told.send(take(&mut stream, true));
                let yes = [head(), header("grpc-status", "0")].concat();
                let _ = stream.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &yes));
                let _ = stream.write_all(&frame(GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
                // It reads what is on its way, so that its words are not lost by a reset.
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            });
        }
    });
    (address, asked)
}
