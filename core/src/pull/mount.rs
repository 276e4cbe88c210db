//! The pull side below a path of the program's own router, with the types of the crate `http`, which all of them share.

use std::borrow::Cow;
use std::future::{Future, poll_fn};

use http::{HeaderName, HeaderValue};

use super::route::PARENT;
use super::{Answer, MOST_BODY, Method, Reply, Request, ask};

/// Answers a request for a profile, below whatever path ends in `/debug/pprof/`, on any executor.
///
/// Nothing of it blocks: the future sleeps until everprof's own thread has the answer. Dropping it gives the recording
/// up, as frameworks do when a client goes away. It asks for no token: the router decides who may come here, and should,
/// since stacks and arguments are not for everybody.
///
/// The body is looked at for `symbol` alone; beyond 512 KiB the answer is 413. Without a running profiler it is 503.
///
/// With axum, where `Body` is `axum::body::Body`:
///
/// ```ignore
/// async fn pprof(parts: axum::http::request::Parts, body: axum::body::Bytes) -> axum::response::Response {
///     everprof::pull::handle(axum::http::Request::from_parts(parts, body)).await.map(axum::body::Body::from)
/// }
/// let app = axum::Router::new()
///     .route("/debug/pprof/", axum::routing::any(pprof))
///     .route("/debug/pprof/{*rest}", axum::routing::any(pprof));
/// ```
///
/// The folder `examples/rust/routers` has the same for hyper, warp, actix-web, whose types are its own, and tiny_http, where
/// a thread waits. A router that strips its prefix must leave `/debug/pprof/` in the path.
///
/// ```
/// # let _: std::pin::Pin<Box<dyn Future<Output = http::Response<Vec<u8>>> + Send>> =
/// Box::pin(everprof::pull::handle(http::Request::get("/debug/pprof/cmdline").body([]).unwrap()));
/// ```
pub fn handle<B: AsRef<[u8]>>(
    request: http::Request<B>,
) -> impl Future<Output = http::Response<Vec<u8>>> + Send + 'static + use<B> {
    let body = request.body().as_ref();
    let is_long = body.len() > MOST_BODY;
    let asked = Request {
        method: Method::from_name(request.method().as_str()),
        path: request.uri().path().to_string(),
        query: request.uri().query().unwrap_or_default().to_string(),
        body: if is_long { Vec::new() } else { body.to_vec() },
    };
    async move {
        let refused = if is_long { Some(too_long()) } else { stripped(&asked.path) };
        let mut answer = match refused.map_or_else(|| ask(&asked), Reply::Now) {
            Reply::Now(answer) => answer,
            Reply::Later(ticket) => poll_fn(|context| ticket.poll(context.waker())).await,
        };
        if asked.method == Method::Head {
            answer.body.clear();
        }
        response(answer)
    }
}

fn too_long() -> Answer {
    Answer::error(413, &format!("the body is longer than {} KiB", MOST_BODY >> 10))
}

/// Whoever mounts it below a path that his router takes away is told so, and not led in circles.
fn stripped(path: &str) -> Option<Answer> {
    let reason = "404 page not found: everprof knows its pages by /debug/pprof/ in the path, which the router that leads here must leave there";
    (!path.contains(PARENT)).then(|| Answer::error(404, reason))
}

fn response(answer: Answer) -> http::Response<Vec<u8>> {
    let mut response = http::Response::new(answer.body);
    *response.status_mut() =
        http::StatusCode::from_u16(answer.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in answer.headers {
        let value = match value {
            Cow::Borrowed(text) => Ok(HeaderValue::from_static(text)),
            Cow::Owned(text) => HeaderValue::from_str(&text),
        };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
