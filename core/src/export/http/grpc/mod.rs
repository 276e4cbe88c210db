//! One call of gRPC: HTTP/2 by the crate `h2`, driven by hand on the exporter's own thread, without a runtime.
//!
//! A connection lasts for the calls that are made at once, which may be many where a server wants each series by itself, and
//! never from one period to the next: there is nothing to keep alive. Everything of a call has one end in time. Of an answer only its status, the beginning of its message
//! and its trailers are kept; heads, messages and the connection as a whole are bounded, whatever the server sends.

mod drive;
mod status;

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderName, HeaderValue, Method, Request as Head, Version};

use super::{CHUNK, Client, Failure, LONGEST_UPLOAD, Reply, Request, TIMEOUT, Wire, told};
use drive::Limits;
pub(super) use drive::Open;

/// The longest message that is read to its end, which is what clients of gRPC take; its beginning is enough.
const MOST_MESSAGE: usize = 4 << 20;
type Chunk = Cursor<Vec<u8>>;

/// Why a call came to no end.
enum Broken {
    Http2(h2::Error),
    Wire(io::Error),
    Nonsense(String),
}

impl From<h2::Error> for Broken {
    fn from(error: h2::Error) -> Self {
        Broken::Http2(error)
    }
}

/// The connection of the calls at hand.
pub(super) type Kept = std::cell::RefCell<Option<Open>>;

/// Nothing to check: this build has it.
pub(in super::super) fn check() -> Result<(), String> {
    Ok(())
}

impl Client {
    /// Calls a method with one message, ready in its frame, and waits for the answer.
    pub(in super::super) fn call(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let deadline = Instant::now() + self.timeout;
        let head = self.grpc_head(request).map_err(Failure::Unfit)?;
        let kept = self.kept.take().and_then(|mut open| open.is_open().then_some(open));
        let was_kept = kept.is_some();
        let opened = kept.map_or_else(|| self.begin_calls(deadline), Ok);
        let mut open = opened.map_err(Failure::NotSent)?;
        if let Err(broken) = open.greet() {
            let failure = || Failure::NotSent(self.failed(broken, false).into_problem());
            return open.http1().map(status::of_http1).ok_or_else(failure);
        }
        let (is_sent, body) = (Cell::new(false), request.body);
        let limits = Limits { pause: self.timeout, end: Instant::now() + time_for(body.len()) };
        let called = open.call(limits, |send| exchange(send, head, body, request.wanted, &is_sent));
        if let (Err(_), Some(status)) = (&called, open.http1()) {
            return Ok(status::of_http1(status));
        }
        let called = match called {
            Ok(reply) => {
                self.kept.replace(Some(open));
                return Ok(reply);
            }
            Err(broken) => self.failed(broken, is_sent.get()),
        };
        match called {
            // It was closed since the call before.
            Failure::NotSent(_) | Failure::Cut(_) if was_kept => self.call(request),
            failure => Err(failure),
        }
    }

    /// No more calls for now.
    pub(in super::super) fn end_calls(&self) {
        if let Some(open) = self.kept.take() {
            open.close();
        }
    }

    fn begin_calls(&self, deadline: Instant) -> Result<Open, String> {
        let trust = super::Trust { alpn: Some(b"h2"), ..self.trust.clone() };
        let wire = Wire::open(&self.url, &self.way(&trust), deadline)?;
        Open::new(wire, deadline).map_err(|broken| self.failed(broken, false).into_problem())
    }

    fn failed(&self, broken: Broken, is_sent: bool) -> Failure {
        let (problem, is_refused) = match broken {
            Broken::Nonsense(problem) => (problem, false),
            Broken::Wire(error) => (told("no answer", &error), false),
            Broken::Http2(error) => {
                let problem = match error.get_io() {
                    Some(error) => told("no answer", error),
                    None => format!("no answer: {}", self.clean(&error.to_string())),
                };
                (problem, is_refused(&error))
            }
        };
        match (is_refused, is_sent) {
            (true, _) => Failure::NotSent(problem),
            (false, false) => Failure::Cut(problem),
            (false, true) => Failure::Unknown(problem),
        }
    }

    fn grpc_head(&self, request: &Request<'_>) -> Result<Head<()>, String> {
        let scheme = if self.url.is_secure { "https" } else { "http" };
        let unfit = |_| "a header that HTTP/2 does not take".to_string();
        let mut head = Head::builder()
            .method(Method::POST)
            .version(Version::HTTP_2)
            .uri(format!("{scheme}://{}{}", self.url.authority(), request.path))
            .header("te", "trailers")
            .header("content-type", request.content_type)
            .header("user-agent", concat!("everprof/", env!("CARGO_PKG_VERSION")))
            .header("grpc-timeout", format!("{}m", time_for(request.body.len()).as_millis()))
            .body(())
            .map_err(|_| "a place that HTTP/2 does not take".to_string())?;
        for (name, value) in &request.headers {
            let name: HeaderName = name.parse().map_err(|_| unfit(()))?;
            let value: String = value.chars().filter(|letter| !letter.is_control()).collect();
            let mut value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| unfit(()))?;
            // What is below tells of headers where the host listens to it (`tracing`), but not of these.
            value.set_sensitive(true);
            head.headers_mut().insert(name, value);
        }
        Ok(head)
    }
}

/// The whole time of a call: a slow line has more of it.
fn time_for(bytes: usize) -> Duration {
    const SLOWEST: u64 = (CHUNK as u64) / TIMEOUT.as_secs();
    (TIMEOUT + Duration::from_secs(bytes as u64 / SLOWEST)).min(LONGEST_UPLOAD)
}

/// Whether the other side says that it has done nothing with the call. `h2` tells of a GOAWAY only those whose stream is
/// beyond its last one.
fn is_refused(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() || error.reason() == Some(Reason::REFUSED_STREAM)
}

async fn exchange(
    send: SendRequest<Chunk>,
    head: Head<()>,
    body: &[u8],
    wanted: usize,
    is_sent: &Cell<bool>,
) -> Result<Reply, Broken> {
    let mut send = send.ready().await?;
    let (mut response, mut stream) = send.send_request(head, false)?;
    let early = send_body(&mut stream, &mut response, body).await;
    if early.is_none() {
        is_sent.set(true);
    }
    let answer = match early {
        Some(answer) => answer?,
        None => response.await?,
    };
    let (head, body) = answer.into_parts();
    if let Some(reply) = status::of_head(head.status, &head.headers) {
        return Ok(reply);
    }
    read(body, wanted).await
}

/// Sends as the other side takes it. It may answer before it has all, which then is what counts.
async fn send_body(
    stream: &mut SendStream<Chunk>,
    response: &mut ResponseFuture,
    mut body: &[u8],
) -> Option<Result<http::Response<RecvStream>, h2::Error>> {
    enum Next {
        Answer(Result<http::Response<RecvStream>, h2::Error>),
        Room(usize),
        Closed,
    }
    while !body.is_empty() {
        stream.reserve_capacity(body.len().min(CHUNK));
        let next = poll_fn(|cx| {
            if let Poll::Ready(answer) = Pin::new(&mut *response).poll(cx) {
                return Poll::Ready(Next::Answer(answer));
            }
            match stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(0))) | Poll::Pending => Poll::Pending,
                Poll::Ready(Some(Ok(room))) => Poll::Ready(Next::Room(room)),
                Poll::Ready(Some(Err(_)) | None) => Poll::Ready(Next::Closed),
            }
        });
        match next.await {
            Next::Answer(answer) => return Some(answer),
            Next::Room(room) => {
                let (chunk, rest) = body.split_at(room.min(body.len()));
                body = rest;
                if stream.send_data(Cursor::new(chunk.to_vec()), rest.is_empty()).is_err() {
                    return Some(response.await);
                }
            }
            Next::Closed => return Some(response.await),
        }
    }
    None
}

/// The beginning of the message, and what the trailers say.
async fn read(mut body: RecvStream, wanted: usize) -> Result<Reply, Broken> {
    let (mut kept, mut total) = (Vec::new(), 0);
    while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
        let data = data?;
        total += data.len();
        if total > MOST_MESSAGE {
            return Err(Broken::Nonsense("an answer without end".to_string()));
        }
        let room = (wanted + 5usize).saturating_sub(kept.len());
        kept.extend_from_slice(data.get(..room.min(data.len())).unwrap_or_default());
        body.flow_control().release_capacity(data.len())?;
    }
    let trailers = poll_fn(|cx| body.poll_trailers(cx)).await?;
    let Some(mut reply) = trailers.as_ref().and_then(status::of_trailers) else {
        return Err(Broken::Nonsense("an answer without a status".to_string()));
    };
    // A message of another sort than asked for would be compressed: it is not read.
    if let Some((&[0, a, b, c, d], message)) = kept.split_first_chunk() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        reply.message = message.get(..length.min(message.len())).unwrap_or_default().to_vec();
    }
    Ok(reply)
}
