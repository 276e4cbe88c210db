//! Threads that hardly ever run, since they ask a slow upstream; and others of which the same is true, that wait for work.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use everprof::Profiler;
use everprof::profile::{Activity, Bound, Group, Profile};

use super::common::{LOOKS_BUDGET, burn, by_labels, directory, flush, kind_of, stop};

/// Where the servers listen, in a process of their own: what they do is not to be told.
struct Upstream([SocketAddr; 4]);

const SLOW: usize = 0;
const AT_ONCE: usize = 1;
const HALF_A_SECOND: usize = 2;
const UNASKED: usize = 3;

/// Begins the servers. There is one thread by now.
fn begin_upstream() -> Upstream {
    let listeners = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    // SAFETY: no other thread holds a lock.
    if unsafe { libc::fork() } != 0 {
        return Upstream(addresses);
    }
    // SAFETY: the number is a signal's.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    for (kind, listener) in listeners.into_iter().enumerate() {
        let each = move |mut connection: TcpStream| -> std::io::Result<()> {
            connection.set_nodelay(true)?;
            loop {
                if kind != UNASKED {
                    connection.read_exact(&mut [0])?;
                }
                thread::sleep(Duration::from_millis([150, 0, 500, 100][kind]));
                connection.write_all(b"!")?;
            }
        };
        thread::spawn(move || {
            for connection in listener.incoming() {
                thread::spawn(move || each(connection.unwrap()));
            }
        });
    }
    loop {
        thread::park();
    }
}

impl Upstream {
    fn connect(&self, kind: usize) -> TcpStream {
        let connection = TcpStream::connect(self.0[kind]).unwrap();
        connection.set_nodelay(true).unwrap();
        connection
    }
}

fn client(name: &str, work: impl FnOnce() + Send + 'static) {
    thread::Builder::new().name(name.into()).spawn(work).unwrap();
}

#[inline(never)]
fn ask_a_slow_upstream(connection: &mut TcpStream) {
    connection.write_all(b"?").unwrap();
    connection.read_exact(&mut [0]).unwrap();
    std::hint::black_box(());
}

/// What services do while they have nothing to do.
fn wait_for_work(upstream: &Upstream) {
    let mut kept = upstream.connect(AT_ONCE);
    client("keeps", move || {
        ask_a_slow_upstream(&mut kept);
        _ = kept.read(&mut [0]);
    });
    let mut heard = upstream.connect(UNASKED);
    client("hears", move || {
        while heard.read_exact(&mut [0]).is_ok() {
            burn(Duration::from_micros(400));
        }
    });
    // Asks for the next message, and is answered half a second later that there is none.
    let mut polled = upstream.connect(HALF_A_SECOND);
    client("polls", move || {
        loop {
            ask_a_slow_upstream(&mut polled);
        }
    });
    let mut beaten = upstream.connect(AT_ONCE);
    beaten.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    client("beats", move || {
        loop {
            if beaten.read(&mut [0]).is_err() {
                beaten.write_all(b"?").unwrap();
            }
        }
    });
}

const IDLE: [&str; 4] = ["keeps", "hears", "polls", "beats"];

fn of<'g>(groups: &'g [Group], name: &str) -> Option<&'g Group> {
    groups.iter().find(|group| group.name == name)
}

/// An idle service is called idle, and once some of its threads ask a slow upstream, it is called wait-bound.
pub(crate) fn answers() {
    let upstream = begin_upstream();
    let dir = directory("answers");
    let builder = Profiler::builder().dir(&dir).set("kinds", "cpu,wall").set("symbolize", "names");
    let builder = builder.set("cpu_budget_percent", LOOKS_BUDGET);
    // What hardly runs has few samples of it at the rate that is meant for long periods.
    let profiler = builder.rate_hz(99).start().unwrap();
    wait_for_work(&upstream);
    thread::sleep(Duration::from_secs(1));
    flush(&profiler);
    thread::sleep(Duration::from_secs(4));
    flush(&profiler);
    for number in 0..3 {
        let mut asked = upstream.connect(SLOW);
        client(&format!("asks-{number}"), move || {
            loop {
                ask_a_slow_upstream(&mut asked);
                burn(Duration::from_micros(700));
            }
        });
    }
    thread::sleep(Duration::from_secs(6));
    flush(&profiler);
    stop(profiler);
    let longest = |asked: bool| -> Profile {
        let all = kind_of(&dir, "wall").into_iter();
        let all = all.filter(|one| of(&one.verdict().unwrap().groups, "asks").is_some() == asked);
        all.max_by_key(|profile| profile.totals()[1]).unwrap()
    };
    let (idle, asking) = (longest(false), longest(true));
    std::fs::remove_dir_all(&dir).unwrap();
    let verdict = idle.verdict().unwrap();
    println!("{verdict}\n{:?}", by_labels(&idle, ["thread_name", "wait"]));
    // On a crowded machine they wait for a processor as well, for more than what is thought asleep.
    let is_asleep = |group: &Group| group.share(Activity::OnCpu) + group.share(Activity::Runnable) < 0.01;
    if verdict.groups.iter().all(is_asleep) {
        assert_eq!(verdict.bound, Bound::Idle);
    }
    let verdict = asking.verdict().unwrap();
    let told = by_labels(&asking, ["thread_name", "wait"]);
    println!("{verdict}\n{told:?}");
    for group in &verdict.groups {
        println!("{}: {:?}", group.name, group.nanos);
    }
    let idle = IDLE.map(|name| of(&verdict.groups, name).unwrap());
    for group in idle.into_iter().filter(|group| is_asleep(group)) {
        assert!(group.share(Activity::Network) < 0.02, "{group:?}");
    }
    assert_eq!(verdict.bound, Bound::Wait(Activity::Network));
    assert!(
        verdict.waits_in.iter().any(|name| name.contains("ask_a_slow_upstream")),
        "{:?}",
        verdict.waits_in
    );
    assert!(of(&verdict.groups, "asks").unwrap().share(Activity::Network) > 0.9);
    // Who asks on within a tick of the kernel's clock is not known to have said the last word.
    let waited = |is: &dyn Fn(&str) -> bool| -> u64 {
        let of_asks = told.iter().filter(|([thread, wait], _)| thread.starts_with("asks") && is(wait));
        of_asks.map(|(_, nanos)| *nanos as u64).sum()
    };
    let (owed, all) = (waited(&|wait| wait == "answer"), waited(&|wait| !wait.is_empty()));
    println!("known to be for an answer: {:.2}", owed as f64 / all as f64);
    assert!(10 * owed > all);
}
