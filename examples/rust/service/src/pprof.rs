//! Profiles on request, at `/debug/pprof/` of the shop itself. A real service puts this on a port for its operators.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{Request, Response};
use axum::routing::any;

/// The routes of `everprof::pull`.
pub fn router() -> Router {
    Router::new()
        .route("/debug/pprof", any(answer))
        .route("/debug/pprof/", any(answer))
        .route("/debug/pprof/{*rest}", any(answer))
}

async fn answer(parts: Parts, body: Bytes) -> Response<Body> {
    everprof::pull::handle(Request::from_parts(parts, body)).await.map(Body::from)
}
