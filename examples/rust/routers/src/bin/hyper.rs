//! Profiles below a path of a hyper server.

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn pprof(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Failure> {
    let (parts, body) = request.into_parts();
    // Only `symbol` is asked with a body, and more than 64 KiB of it are refused.
    let body = Limited::new(body, 1 << 20).collect().await?.to_bytes();
    Ok(everprof::pull::handle(Request::from_parts(parts, body)).await.map(Full::from))
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Failure> {
    if request.uri().path().starts_with("/debug/pprof") {
        return pprof(request).await;
    }
    let mut nothing = Response::default();
    *nothing.status_mut() = StatusCode::NOT_FOUND;
    Ok(nothing)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let _profiler = routers::start()?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    routers::tell(listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}
