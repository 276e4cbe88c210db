//! A load generator for the shop: `load ADDRESS [SECONDS] [REQUESTS_PER_SECOND]`. Loopback only.
//!
//! Requests come at a fixed rate, whether or not earlier ones are answered, and latency counts from the moment a
//! request was due: a slow service cannot hide by slowing down its load.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shop::Random;
use shop::client::{Client, Error};
use shop::text::WORDS;
use tokio::task::JoinSet;

const CONNECTIONS: u64 = 32;
const MOST_SECONDS: u64 = 3600;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr =
        arguments.next().ok_or("usage: load ADDRESS [SECONDS] [REQUESTS_PER_SECOND]")?.parse()?;
    let seconds: u64 = arguments.next().map_or(Ok(15), |text| text.parse())?;
    let rate: u64 = arguments.next().map_or(Ok(100), |text| text.parse())?;
    if !address.ip().is_loopback() || !(1..=MOST_SECONDS).contains(&seconds) || rate == 0 {
        return Err("give a loopback address, 1 to 3600 seconds, and at least 1 request a second".into());
    }

    let start = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    for seed in 0..CONNECTIONS {
        workers.spawn(work(address, Random::new(seed + 1), next.clone(), seconds * rate, rate, start));
    }
    let mut latencies: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    let mut errors = 0;
    while let Some(worker) = workers.join_next().await {
        for (route, latency) in worker? {
            match latency {
                Ok(latency) => latencies.entry(route).or_default().push(latency),
                Err(error) => {
                    errors += 1;
                    eprintln!("{route}: {error}");
                }
            }
        }
    }
    print(latencies, errors, start.elapsed());
    if errors > 0 { Err(format!("{errors} requests failed").into()) } else { Ok(()) }
}

type Outcome = (&'static str, Result<Duration, Error>);

/// Sends requests over one connection, each when it is due, until all `requests` of the run are taken.
async fn work(
    address: SocketAddr,
    mut random: Random,
    next: Arc<AtomicU64>,
    requests: u64,
    rate: u64,
    start: Instant,
) -> Vec<Outcome> {
    let mut client = Client::new(address);
    let mut outcomes = Vec::new();
    loop {
        let ticket = next.fetch_add(1, Ordering::Relaxed);
        if ticket >= requests {
            return outcomes;
        }
        let due = start + Duration::from_nanos(ticket * 1_000_000_000 / rate);
        tokio::time::sleep_until(due.into()).await;
        let (route, answer) = request(&mut client, &mut random).await;
        outcomes.push((route, answer.map(|()| due.elapsed())));
    }
}

async fn request(client: &mut Client, random: &mut Random) -> (&'static str, Result<(), Error>) {
    let (route, answer) = match random.below(100) {
        0..60 => {
            let (first, second) = (WORDS[random.below(WORDS.len())], WORDS[random.below(WORDS.len())]);
            let query: String =
                format!("{first} {second}").bytes().map(|byte| format!("%{byte:02x}")).collect();
            ("/search", client.get(&format!("/search?q={query}")).await)
        }
        60..85 => ("/product", client.get(&format!("/product/{}", random.below(50_000))).await),
        85..95 => {
            let body = format!("{{\"items\":[{{\"id\":{},\"pieces\":2}}]}}", random.below(50_000));
            ("/order", client.post_json("/order", body).await)
        }
        _ => ("/report", client.get("/report").await),
    };
    let checked = answer.and_then(|(status, body)| match status.is_success() && !body.is_empty() {
        true => Ok(()),
        false => Err(format!("answered {status} with {} bytes", body.len()).into()),
    });
    (route, checked)
}

fn print(latencies: BTreeMap<&str, Vec<Duration>>, errors: usize, elapsed: Duration) {
    let answered: usize = latencies.values().map(Vec::len).sum();
    println!("{:.0} requests/s, {errors} failed", answered as f64 / elapsed.as_secs_f64());
    for (route, mut times) in latencies {
        times.sort_unstable();
        let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        println!("  {route:10} {:6} answers   p50 {:7.1} ms   p99 {:7.1} ms", times.len(), at(50), at(99));
    }
}
