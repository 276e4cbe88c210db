//! Profiles below a path of a server without futures: a thread waits for each answer.

use std::io::{self, Read};
use std::thread;

use tiny_http::{Header, Request, Response, Server};

fn pprof(mut request: Request) -> io::Result<()> {
    let mut body = Vec::new();
    // Only `symbol` is asked with a body, and more than 64 KiB of it are refused.
    request.as_reader().take(65 << 10).read_to_end(&mut body)?;
    let asked = http::Request::builder().method(request.method().as_str()).uri(request.url()).body(body);
    let Ok(asked) = asked else { return request.respond(Response::empty(400)) };
    let (parts, body) = pollster::block_on(everprof::pull::handle(asked)).into_parts();
    let mut answer = Response::from_data(body).with_status_code(parts.status.as_u16());
    for (name, value) in &parts.headers {
        if let Ok(header) = Header::from_bytes(name.as_str(), value.as_bytes()) {
            answer.add_header(header);
        }
    }
    request.respond(answer)
}

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let _profiler = routers::start()?;
    let server = Server::http("127.0.0.1:0")?;
    routers::tell(server.server_addr());
    for request in server.incoming_requests() {
        if request.url().starts_with("/debug/pprof") {
            thread::spawn(|| pprof(request));
        } else {
            request.respond(Response::empty(404))?;
        }
    }
    Ok(())
}
