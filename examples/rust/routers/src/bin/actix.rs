//! Profiles below a path of an actix-web application, whose types of requests and answers are its own.

use actix_web::http::StatusCode;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};

async fn pprof(request: HttpRequest, body: web::Bytes) -> HttpResponse {
    let asked = http::Request::builder().method(request.method().as_str()).uri(request.uri().to_string());
    let Ok(asked) = asked.body(body) else { return HttpResponse::BadRequest().finish() };
    let (parts, body) = everprof::pull::handle(asked).await.into_parts();
    let status = StatusCode::from_u16(parts.status.as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = HttpResponse::build(status);
    for (name, value) in &parts.headers {
        answer.insert_header((name.as_str(), value.as_bytes()));
    }
    answer.body(body)
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _profiler = routers::start()?;
    let app = || App::new().route("/debug/pprof{rest:.*}", web::to(pprof));
    let server = HttpServer::new(app).workers(1).bind("127.0.0.1:0")?;
    server.addrs().iter().for_each(routers::tell);
    Ok(server.run().await?)
}
