//! `pull::handle` in routers of others: a current-thread executor must go on while a recording lasts, a dropped future gives
//! its recording up, and answers are those of the server.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use everprof::Profiler;
use everprof::encode::pprof;
use http::{Method, Request, Response};

async fn get(path: &str) -> Response<Vec<u8>> {
    everprof::pull::handle(Request::get(path).body([]).unwrap()).await
}

fn header<'r>(response: &'r Response<Vec<u8>>, name: &str) -> &'r str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// In one test, since one profiler runs in a process.
#[tokio::test(flavor = "current_thread")]
async fn a_router_serves_profiles_without_waiting_for_them() {
    assert_eq!(get("/debug/pprof/profile?seconds=1").await.status(), 503, "no profiler runs");
    assert_eq!(get("/debug/pprof/heap").await.status(), 503);
    assert_eq!(get("/debug/pprof/trace").await.status(), 404);
    let dir = std::env::temp_dir().join(format!("everprof-mount-{}", std::process::id()));
    let profiler = Profiler::builder().dir(&dir).set("symbolize", "names").start().unwrap();
    assert_eq!(profiler.stats().serve_address, None);

    // One thread: if anything of it blocked, the other tasks would stand still.
    let begun = Instant::now();
    let mut turns = 0;
    let mut recording = pin!(get("/behind/a/prefix/debug/pprof/profile?seconds=1"));
    let response = loop {
        tokio::select! {
            response = &mut recording => break response,
            () = tokio::time::sleep(Duration::from_millis(20)) => turns += 1,
        }
    };
    assert!(begun.elapsed() >= Duration::from_secs(1) && turns >= 3, "{turns} turns of another task");
    assert_eq!(
        (response.status().as_u16(), header(&response, "content-type")),
        (200, "application/octet-stream")
    );
    assert_eq!(header(&response, "content-disposition"), "attachment; filename=\"profile\"");
    assert!(pprof::decode(response.body()).unwrap().duration_nanos >= 900_000_000);

    // A prefix may be called as ours is; a router that takes the path away hears so, and leads nobody in circles.
    assert_eq!(get("/debug/shop/debug/pprof/cmdline").await.status(), 200);
    for stripped in ["/", "/profile", "/pprof/"] {
        let response = get(stripped).await;
        let text = String::from_utf8_lossy(response.body()).into_owned();
        assert!(response.status() == 404 && text.contains("must leave there"), "{stripped}: {text}");
    }

    let page = get("/debug/pprof/").await;
    assert!(String::from_utf8_lossy(page.body()).contains("everprof itself"));
    let post = |body: Vec<u8>| {
        let request = Request::builder().method(Method::POST).uri("/debug/pprof/symbol").body(body).unwrap();
        everprof::pull::handle(request)
    };
    assert!(post(b"0x1".to_vec()).await.body().starts_with(b"num_symbols: 1\n"));
    assert_eq!(post(vec![b'1'; 600_000]).await.status(), 413);
    let head = everprof::pull::handle(Request::head("/debug/pprof/threads").body(Vec::new()).unwrap()).await;
    assert!(head.status() == 200 && head.body().is_empty());

    // Eight at once are all; dropped, they make room.
    for _ in 0..2 {
        let mut dropped: Vec<_> = (0..8).map(|_| Box::pin(get("/debug/pprof/profile?seconds=600"))).collect();
        let mut context = Context::from_waker(Waker::noop());
        assert!(dropped.iter_mut().all(|future| future.as_mut().poll(&mut context).is_pending()));
        assert_eq!(get("/debug/pprof/profile?seconds=1").await.status(), 503);
        drop(dropped);
        // And so many a second.
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    assert_eq!(get("/debug/pprof/profile?seconds=1").await.status(), 200);
    drop(profiler);
    assert_eq!(get("/debug/pprof/profile?seconds=1").await.status(), 503, "it was stopped");
    let _ = std::fs::remove_dir_all(dir);
}
