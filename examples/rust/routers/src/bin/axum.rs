//! Profiles below a path of an axum router.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{Request, Response};
use axum::routing::any;

async fn pprof(parts: Parts, body: Bytes) -> Response<Body> {
    everprof::pull::handle(Request::from_parts(parts, body)).await.map(Body::from)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _profiler = routers::start()?;
    let app = Router::new()
        .route("/debug/pprof", any(pprof))
        .route("/debug/pprof/", any(pprof))
        .route("/debug/pprof/{*rest}", any(pprof));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    routers::tell(listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
