//! Google Cloud Profiler, played by a server after its published API: what it is asked, what it gets, and what becomes of it
//! where it hangs or fails. There is no emulator of Google's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use everprof::Profiler;
use everprof::encode::pprof;
use serde_json::{Value, json};

use common::{burn, this_program};

/// How a program is told what to do.
const PUSH: &str = "EVERPROF_TEST_PUSH";
const STEP: Duration = Duration::from_secs(30);

fn main() {
    let cases: &[(&str, fn())] = &[
        ("what_is_wanted_is_taken_and_sent", what_is_wanted_is_taken_and_sent),
        ("a_stop_does_not_wait_for_a_poll_that_hangs", a_stop_does_not_wait_for_a_poll_that_hangs),
        ("what_is_offered_is_what_is_taken_now", what_is_offered_is_what_is_taken_now),
        ("what_cannot_be_sent_is_given_up", what_cannot_be_sent_is_given_up),
        #[cfg(feature = "tls")]
        ("a_key_file_is_exchanged_for_a_token", a_key_file_is_exchanged_for_a_token),
        ("a_child_talks_for_itself", a_child_talks_for_itself),
        ("program", program),
        ("program_that_forks", program_that_forks),
    ];
    common::main("google", cases, 2);
}

/// A request as it came.
struct Asked {
    line: String,
    head: String,
    body: String,
}

impl Asked {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.head.lines().filter_map(|line| line.split_once(": "));
        pairs.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// What the server does with a request.
enum Act {
    Answer(u16, String),
    Hang,
}

struct Fake {
    address: String,
    asked: Receiver<Asked>,
}

impl Fake {
    /// Answers as `act` says, which gets the request and how many like it (method and path) came before.
    fn new(act: impl Fn(&str, usize) -> Act + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (told, asked) = mpsc::channel();
        thread::spawn(move || {
            let mut seen: Vec<String> = Vec::new();
            let mut hanging: Vec<TcpStream> = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let Some(request) = read(&mut stream) else { continue };
                let before = seen.iter().filter(|line| **line == request.line).count();
                seen.push(request.line.clone());
                match act(&request.line, before) {
                    Act::Hang => hanging.push(stream),
                    Act::Answer(status, body) => {
                        let length = body.len();
                        let _ =
                            write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
                    }
                }
                if told.send(request).is_err() {
                    return;
                }
            }
        });
        Self { address, asked }
    }

    fn next(&self, line: &str) -> Asked {
        loop {
            let asked = self.asked.recv_timeout(STEP).unwrap_or_else(|_| panic!("no {line}"));
            if asked.line.starts_with(line) {
                return asked;
            }
        }
    }

    /// Runs this program again with a profiler that pushes here.
    fn program(&self, case: &str) -> Command {
        let mut command = this_program();
        command
            .env(common::CASE, case)
            .env(PUSH, format!("google+http://{}/base", self.address))
            .env("GCE_METADATA_HOST", &self.address)
            .envs([("DD_SERVICE", "Shop API"), ("DD_VERSION", "1.0")]);
        for name in ["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"] {
            command.env_remove(name);
        }
        command
    }
}

fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let mut asked =
                Asked { line: head.lines().next().unwrap().to_string(), head, body: String::new() };
            let length: usize = asked.header("content-length").unwrap().parse().unwrap();
            let mut body = bytes.split_off(end + 4);
            let mut rest = vec![0; length - body.len()];
            stream.read_exact(&mut rest).ok()?;
            body.extend(rest);
            asked.body = String::from_utf8(body).unwrap();
            return Some(asked);
        }
        match stream.read(&mut chunk) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    }
}

const CREATE: &str = "POST /base/v2/projects/proj-1234/profiles ";
const UPDATE: &str = "PATCH /base/v2/projects/proj-1234/profiles/";

/// What the machine's own server says.
fn machine(line: &str) -> Option<Act> {
    let says = |text: &str| Some(Act::Answer(200, text.to_string()));
    match line.split(' ').nth(1).unwrap().strip_prefix("/computeMetadata/v1/")? {
        "project/project-id" => says("proj-1234"),
        "instance/zone" => says("projects/99/zones/us-central1-a\n"),
        "instance/service-accounts/default/token" => {
            says(r#"{"access_token": "token-of-the-machine", "expires_in": 3600, "token_type": "Bearer"}"#)
        }
        _ => Some(Act::Answer(404, String::new())),
    }
}

fn wants(number: usize, sort: &str, duration: &str) -> Act {
    let name = format!("projects/proj-1234/profiles/p-{number}");
    Act::Answer(200, json!({"name": name, "profileType": sort, "duration": duration}).to_string())
}

fn aborted(delay: &str) -> Act {
    let info = json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay});
    Act::Answer(409, json!({"error": {"code": 409, "status": "ABORTED", "details": [info]}}).to_string())
}

/// The program: a profiler and work, until its input ends; with each byte of it, there is the kind `cpu` alone. It says how
/// long the stop took.
fn program() {
    let Ok(push) = std::env::var(PUSH) else { return };
    let profiler = Profiler::builder()
        .rate_hz(1000)
        .set("symbolize", "names")
        .set("cpu_budget_percent", "100")
        .set("kinds", "cpu,threads")
        .set("push", push)
        .start()
        .unwrap();
    let (over, is_over) = mpsc::channel::<()>();
    thread::spawn(move || {
        let mut byte = [0];
        while std::io::stdin().read(&mut byte).is_ok_and(|count| count > 0) {
            everprof::set("kinds", "cpu").unwrap();
        }
        drop(over);
    });
    while is_over.try_recv() == Err(mpsc::TryRecvError::Empty) {
        burn(Duration::from_millis(20));
    }
    let stats = profiler.stats();
    let begin = Instant::now();
    profiler.stop().unwrap();
    println!(
        "stopped in {} ms; {} sent of {} bytes, {} failed, {} refused; {}",
        begin.elapsed().as_millis(),
        stats.exported,
        stats.exported_bytes,
        stats.export_failures,
        stats.export_refused,
        stats.last_problem.unwrap_or_default()
    );
}

/// Ends the program and returns what it said.
fn end(mut child: std::process::Child) -> String {
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn spawn(mut command: Command) -> std::process::Child {
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap()
}

fn millis(said: &str) -> u64 {
    said.split("stopped in ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
}

fn what_is_wanted_is_taken_and_sent() {
    let fake = Fake::new(|line, before| match machine(line) {
        Some(act) => act,
        None if line.starts_with(CREATE) => match before {
            0 => aborted("0.5s"),
            1 => wants(1, "CPU", "1.5s"),
            2 => wants(2, "THREADS", "0s"),
            _ => Act::Hang,
        },
        None => Act::Answer(200, "{}".to_string()),
    });
    let child = spawn(fake.program("program"));
    let first = fake.next(CREATE);
    let began = Instant::now();
    assert_eq!(first.header("authorization"), Some("Bearer token-of-the-machine"));
    let expected = json!({
        "deployment": {
            "projectId": "proj-1234",
            "target": "shop-api",
            "labels": {"language": "rust", "version": "1.0", "zone": "us-central1-a"},
        },
        "profileType": ["CPU", "THREADS"],
    });
    assert_eq!(first.json(), expected);
    fake.next(CREATE);
    assert!(began.elapsed() > Duration::from_millis(400), "as long as the server said");
    let mut bytes = 0;
    for (number, kind) in [(1, "CPU"), (2, "THREADS")] {
        let update = fake.next(UPDATE);
        let path = format!("{UPDATE}p-{number}?updateMask=profileBytes,labels HTTP/1.1");
        assert_eq!(update.line, path);
        let body = update.json();
        assert_eq!(body["name"], format!("projects/proj-1234/profiles/p-{number}"));
        assert_eq!(body["profileType"], kind);
        assert!(body["labels"]["instance"].as_str().is_some_and(|name| !name.is_empty()), "{body}");
        let sent = unbase64(body["profileBytes"].as_str().unwrap());
        bytes += sent.len();
        let profile = pprof::decode(&sent).unwrap();
        if kind == "CPU" {
            let burnt = common::time_in(&profile, "burn");
            assert!((50_000_000..1_900_000_000).contains(&burnt), "{burnt}");
        } else {
            assert!(profile.samples().len() >= 2);
        }
    }
    fake.next(CREATE);
    let said = end(child);
    assert!(millis(&said) < 2_000, "{said}");
    assert!(said.contains(&format!("; 2 sent of {bytes} bytes, 0 failed, 0 refused;")), "{said}");
}

fn a_stop_does_not_wait_for_a_poll_that_hangs() {
    // Hangs at each of the steps.
    for step in 0..4 {
        let fake = Fake::new(move |line, _| match machine(line) {
            Some(_) if step == 0 => Act::Hang,
            Some(act) => act,
            None if line.starts_with(CREATE) => match step {
                1 => Act::Hang,
                2 => wants(1, "CPU", "3600s"),
                _ => wants(1, "CPU", "0.2s"),
            },
            None => Act::Hang,
        });
        let child = spawn(fake.program("program"));
        fake.next(["GET ", CREATE, CREATE, UPDATE][step]);
        thread::sleep(Duration::from_millis(200));
        let said = end(child);
        assert!(millis(&said) < 2_000, "step {step}: {said}");
    }
}

fn what_is_offered_is_what_is_taken_now() {
    let fake = Fake::new(|line, before| match machine(line) {
        Some(act) => act,
        None if before < 3 => aborted("0.5s"),
        None => Act::Hang,
    });
    let mut child = spawn(fake.program("program"));
    assert_eq!(fake.next(CREATE).json()["profileType"], json!(["CPU", "THREADS"]));
    child.stdin.as_mut().unwrap().write_all(b"k").unwrap();
    let mut offers = (0..3).map(|_| fake.next(CREATE).json());
    assert!(offers.any(|offer| offer["profileType"] == json!(["CPU"])));
    end(child);
}

fn what_cannot_be_sent_is_given_up() {
    let fake = Fake::new(|line, before| match machine(line) {
        Some(act) => act,
        None if line.starts_with(CREATE) => match before {
            0 => wants(1, "CPU", "0.2s"),
            1 => wants(2, "CPU", "0.2s"),
            _ => Act::Hang,
        },
        None => Act::Answer(403, "no: Bearer token-of-the-machine".to_string()),
    });
    let child = spawn(fake.program("program"));
    fake.next(UPDATE);
    assert!(fake.next(UPDATE).line.contains("/p-2?"), "it is not sent again");
    fake.next(CREATE);
    let said = end(child);
    assert!(said.contains("; 0 sent of 0 bytes, 2 failed, 2 refused;"), "{said}");
    assert!(said.contains("a profile of CPU is given up: it answers 403: no: Bearer [hidden]"), "{said}");
}

#[cfg(feature = "tls")]
fn a_key_file_is_exchanged_for_a_token() {
    let fake = Fake::new(|line, _| match line {
        line if line.starts_with("POST /token ") => {
            Act::Answer(200, json!({"access_token": "token-of-the-key", "expires_in": 3600}).to_string())
        }
        _ => Act::Hang,
    });
    let dir = common::directory("google-key");
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("key.json");
    let key = json!({
        "type": "service_account",
        "project_id": "proj-1234",
        "private_key_id": "k-1",
        "private_key": include_str!("google/key.pem"),
        "client_email": "shop@proj-1234.iam.gserviceaccount.com",
        "token_uri": format!("http://{}/token", fake.address),
    });
    std::fs::write(&file, key.to_string()).unwrap();
    let mut command = fake.program("program");
    let child = spawn({
        command.env("GOOGLE_APPLICATION_CREDENTIALS", &file);
        command
    });
    let asked = fake.next("POST /token ");
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
    let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
    let token = asked.body.strip_prefix(grant).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let part = |at: usize| unbase64(&parts[at].replace('-', "+").replace('_', "/"));
    let head: Value = serde_json::from_slice(&part(0)).unwrap();
    assert_eq!(head, json!({"alg": "RS256", "typ": "JWT", "kid": "k-1"}));
    let claims: Value = serde_json::from_slice(&part(1)).unwrap();
    assert_eq!(claims["iss"], key["client_email"]);
    assert_eq!(claims["aud"], key["token_uri"]);
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/monitoring.write");
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 3600);
    verify(&dir, &format!("{}.{}", parts[0], parts[1]), &part(2));
    let create = fake.next(CREATE);
    assert_eq!(create.header("authorization"), Some("Bearer token-of-the-key"));
    end(child);
    common::remove(&dir);
}

/// The signature, in the judgement of openssl.
#[cfg(feature = "tls")]
fn verify(dir: &std::path::Path, text: &str, signature: &[u8]) {
    std::fs::write(dir.join("text"), text).unwrap();
    std::fs::write(dir.join("signature"), signature).unwrap();
    let public = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/google/public.pem");
    let verified = Command::new("openssl")
        .args(["dgst", "-sha256", "-verify", public, "-signature", "signature", "text"])
        .current_dir(dir)
        .output();
    match verified {
        Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout)),
        Err(_) => println!("!!! SKIPPED: openssl is not here to verify the signature"),
    }
}

fn program_that_forks() {
    let Ok(push) = std::env::var(PUSH) else { return };
    let profiler = Profiler::builder().set("push", push).start().unwrap();
    // The parent's poll hangs by now.
    let _ = std::io::stdin().read(&mut [0]);
    // SAFETY: the child does what any thread may, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        burn(Duration::from_secs(2));
        // Its own connections end at the stop; of the parent's it has no copy.
        profiler.stop().unwrap();
        let begin = Instant::now();
        while sockets() > 0 {
            assert!(begin.elapsed() < Duration::from_secs(5), "{} sockets", sockets());
            thread::sleep(Duration::from_millis(20));
        }
        // SAFETY: no memory is touched.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: the pointer is to a live value.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
    profiler.stop().unwrap();
}

/// The sockets that this process has open.
fn sockets() -> usize {
    let files = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    files.filter(|file| file.to_string_lossy().starts_with("socket:")).count()
}

fn a_child_talks_for_itself() {
    let fake = Fake::new(|line, before| match machine(line) {
        Some(act) => act,
        None if line.starts_with(CREATE) && before == 1 => wants(1, "CPU", "0.5s"),
        None if line.starts_with(CREATE) => Act::Hang,
        None => Act::Answer(200, "{}".to_string()),
    });
    let mut child = spawn(fake.program("program_that_forks"));
    fake.next(CREATE);
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    fake.next(CREATE);
    fake.next(UPDATE);
    end(child);
}

fn unbase64(text: &str) -> Vec<u8> {
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = 0u32;
    let mut bytes = Vec::new();
    for (at, letter) in text.trim_end_matches('=').chars().enumerate() {
        bits = bits << 6 | letters.find(letter).unwrap() as u32;
        if at % 4 != 0 {
            bytes.push((bits >> (6 - 2 * (at % 4))) as u8);
        }
    }
    bytes
}
