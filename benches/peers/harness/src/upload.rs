//! What goes over the wire: bytes and requests of the same work, and the CPU time that it takes: of the profiler's own threads,
//! and of the program's thread that starts and ends it, since one profiler does there what another does on its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::{process_cpu, thread_cpu};
use crate::load::{burn, by_path};
use crate::{Peer, say};

static BYTES: AtomicU64 = AtomicU64::new(0);
static REQUESTS: AtomicU64 = AtomicU64::new(0);
/// CPU time of the server's thread.
static SERVER: AtomicU64 = AtomicU64::new(0);

/// Two threads, each under one of so many stacks at a time, for that many seconds.
pub(crate) fn measure<P: Peer>(seconds: usize, stacks: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = serve(stream);
        }
    });
    let began = thread_cpu();
    let Some(mut peer) = P::start_pushing(&url, 99) else { return };
    let mut in_calls = thread_cpu() - began;
    let end = AtomicBool::new(false);
    let work = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2usize)
            .map(|seed| {
                let end = &end;
                scope.spawn(move || {
                    let mut path = seed;
                    while !end.load(Ordering::Relaxed) {
                        // Some much more often than others.
                        path = path
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        let place = path >> 33;
                        let place = place % (1 + (place >> 8) % stacks);
                        by_path(place, &mut || burn(Duration::from_millis(2)));
                    }
                    thread_cpu()
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(seconds as u64));
        end.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("it ends")).sum::<Duration>()
    });
    let before = REQUESTS.load(Ordering::SeqCst);
    let ends = thread_cpu();
    drop(peer.report());
    in_calls += thread_cpu() - ends;
    let begun = Instant::now();
    while REQUESTS.load(Ordering::SeqCst) == before && begun.elapsed() < Duration::from_secs(15) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let server = Duration::from_nanos(SERVER.load(Ordering::SeqCst));
    let own = process_cpu().saturating_sub(work + server + thread_cpu());
    say("sent", "bytes", BYTES.load(Ordering::SeqCst) as f64);
    say("requests", "", REQUESTS.load(Ordering::SeqCst) as f64);
    say("own_threads_cpu", "ms", own.as_secs_f64() * 1e3);
    say("cpu", "ms", (own + in_calls).as_secs_f64() * 1e3);
}

/// Answers one request after the other with an empty success, and counts heads and bodies.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let (mut received, mut buffer) = (Vec::new(), [0; 64 * 1024]);
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        received.extend_from_slice(&buffer[..read]);
        let Some(head) = received.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&received[..head]).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let whole = head + 4 + length.unwrap_or(0usize);
        if received.len() >= whole {
            received.drain(..whole);
            stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ncontent-length: 0\r\n\r\n",
            )?;
            BYTES.fetch_add(whole as u64, Ordering::SeqCst);
            SERVER.store(thread_cpu().as_nanos() as u64, Ordering::SeqCst);
            REQUESTS.fetch_add(1, Ordering::SeqCst);
        }
    }
}
