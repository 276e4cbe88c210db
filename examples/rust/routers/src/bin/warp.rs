//! Profiles below a path of a warp filter.

use warp::Filter;
use warp::http::{Method, Request, Response};
use warp::hyper::body::Bytes;
use warp::path::FullPath;

async fn pprof(method: Method, path: FullPath, query: String, body: Bytes) -> Response<Vec<u8>> {
    let asked = Request::builder().method(method).uri(format!("{}?{query}", path.as_str())).body(body);
    match asked {
        Ok(asked) => everprof::pull::handle(asked).await,
        Err(_) => Response::default(),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _profiler = routers::start()?;
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let app = warp::path!("debug" / "pprof" / ..)
        .and(warp::method())
        .and(warp::path::full())
        .and(query)
        .and(warp::body::bytes())
        .then(pprof);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    routers::tell(listener.local_addr()?);
    warp::serve(app).incoming(listener).run().await;
    Ok(())
}
