//! What a profiler outside of the process reads, by OTEP 4719 and 4947: found by the mapping's name and the executable's
//! symbol, read through `/proc/PID/mem` while the thread is stopped, as the specification has it.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use everprof::TraceContext;
use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use object::{LittleEndian, Object as _, ObjectSymbol as _};
use prost::Message;

const CHILD: &str = "EVERPROF_OUTSIDE_CHILD";

/// Two traces of which each byte tells whose it is.
fn trace(digit: u8) -> TraceContext {
    let (whole, half) = (u128::from_be_bytes([digit; 16]), u64::from_be_bytes([digit; 8]));
    TraceContext::new(whole, half).with_local_root(half).with_flags(digit)
}

/// The program that is read: one thread changes its trace as fast as it can, and another one keeps its own.
fn child() {
    let dir = std::env::temp_dir().join(format!("everprof-outside-{}", std::process::id()));
    let builder = everprof::Profiler::builder().dir(&dir).set("otel_context", "on").set("service", "outside");
    let builder = builder.set("version", "1.2.3").set("rate_hz", "1000");
    let _profiler = builder.start().unwrap();
    std::thread::spawn(|| {
        println!("changing {}", everprof_probe::os::gettid());
        loop {
            let outer = trace(0xaa).enter();
            let inner = trace(0xbb).enter();
            drop(inner);
            drop(outer);
        }
    });
    std::thread::spawn(|| {
        let _trace =
            TraceContext::new(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, 0xb7ad_6b71_6920_3331).enter();
        println!("keeping {}", everprof_probe::os::gettid());
        std::thread::sleep(Duration::from_secs(60));
    });
    std::thread::sleep(Duration::from_secs(60));
}

#[derive(Message)]
struct ProcessContext {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(message, optional, tag = "5")]
    list: Option<List>,
}

#[derive(Message)]
struct List {
    #[prost(message, repeated, tag = "1")]
    values: Vec<AnyValue>,
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |value: &AnyValue| value.text.clone().unwrap_or_default();
    let value = |value: &AnyValue| match &value.list {
        Some(list) => list.values.iter().map(text).collect::<Vec<_>>().join(" "),
        None => text(value),
    };
    attributes.iter().map(|pair| (pair.key.as_str(), value(pair.value.as_ref().unwrap()))).collect()
}

/// The process's context, as OTEP 4719 has it read.
fn context(pid: u32, memory: &File) -> ProcessContext {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let names = ["[anon_shmem:OTEL_CTX]", "[anon:OTEL_CTX]", "/memfd:OTEL_CTX"];
    let found: Vec<&str> = maps
        .lines()
        .filter(|line| {
            let name = line.split_whitespace().nth(5).unwrap_or_default();
            names.iter().any(|start| name.starts_with(start))
        })
        .collect();
    assert_eq!(found.len(), 1, "exactly one: {maps}");
    let start = u64::from_str_radix(found[0].split('-').next().unwrap(), 16).unwrap();
    let mut header = [0; 32];
    memory.read_exact_at(&mut header, start).unwrap();
    let word = |at: usize| u64::from_ne_bytes(header[at..at + 8].try_into().unwrap());
    let half = |at: usize| u32::from_ne_bytes(header[at..at + 4].try_into().unwrap());
    assert_eq!((&header[..8], half(8)), (b"OTEL_CTX".as_slice(), 2));
    assert_ne!(word(16), 0);
    let mut payload = vec![0; half(12) as usize];
    memory.read_exact_at(&mut payload, word(24)).unwrap();
    ProcessContext::decode(payload.as_slice()).unwrap()
}

/// How far from the thread pointer the word lies, from the executable alone.
fn offset() -> u64 {
    let file = fs::read(std::env::current_exe().unwrap()).unwrap();
    let elf = ElfFile64::<LittleEndian>::parse(&*file).unwrap();
    let symbol = elf.dynamic_symbols().find(|symbol| symbol.name() == Ok("otel_thread_ctx_v1"));
    let symbol = symbol.expect("the symbol is in .dynsym");
    let headers = elf.elf_header().program_headers(LittleEndian, &*file).unwrap();
    let tls = headers.iter().find(|header| header.p_type(LittleEndian) == object::elf::PT_TLS).unwrap();
    let size = tls.p_memsz(LittleEndian).next_multiple_of(tls.p_align(LittleEndian).max(1));
    symbol.address().wrapping_sub(size)
}

/// A thread that stands still.
struct Stopped(libc::pid_t);

impl Stopped {
    fn new(tid: libc::pid_t) -> Self {
        // SAFETY: plain system calls on a thread of our child.
        unsafe {
            assert_eq!(
                libc::ptrace(libc::PTRACE_ATTACH, tid, 0, 0),
                0,
                "{}",
                std::io::Error::last_os_error()
            );
            let mut status = 0;
            assert_eq!(libc::waitpid(tid, &mut status, libc::__WALL), tid);
            // A signal of the profiler's is handed on.
            while libc::WSTOPSIG(status) != libc::SIGSTOP {
                libc::ptrace(libc::PTRACE_CONT, tid, 0, libc::WSTOPSIG(status));
                libc::waitpid(tid, &mut status, libc::__WALL);
            }
        }
        Self(tid)
    }

    fn thread_pointer(&self) -> u64 {
        // SAFETY: zeros are valid registers.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        // SAFETY: writes to the place given.
        unsafe { libc::ptrace(libc::PTRACE_GETREGS, self.0, 0, &mut registers) };
        registers.fs_base
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // SAFETY: a plain system call.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, 0, 0) };
    }
}

/// The valid record of a thread that stands still: its 28 bytes, and its attributes.
fn record(memory: &File, thread: &Stopped, offset: u64) -> Option<([u8; 28], Vec<u8>)> {
    let mut word = [0; 8];
    memory.read_exact_at(&mut word, thread.thread_pointer().wrapping_add(offset)).unwrap();
    let address = u64::from_ne_bytes(word);
    if address == 0 {
        return None;
    }
    let mut head = [0; 28];
    memory.read_exact_at(&mut head, address).unwrap();
    if head[24] != 1 {
        return None;
    }
    let mut attributes = vec![0; u16::from_ne_bytes([head[26], head[27]]).into()];
    memory.read_exact_at(&mut attributes, address + 28).unwrap();
    Some((head, attributes))
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = fs::remove_dir_all(std::env::temp_dir().join(format!("everprof-outside-{}", self.0.id())));
    }
}

#[test]
fn a_reader_outside_finds_the_service_and_the_spans_of_threads() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let name = "a_reader_outside_finds_the_service_and_the_spans_of_threads";
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args(["--exact", name, "--nocapture"]).env(CHILD, "1").stdout(Stdio::piped());
    let mut child = Killed(command.spawn().unwrap());
    let mut threads: BTreeMap<String, libc::pid_t> = BTreeMap::new();
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    while threads.len() < 2 {
        let line = lines.next().unwrap().unwrap();
        if let Some((what, tid)) =
            line.split_once(' ').and_then(|(what, tid)| Some((what, tid.parse().ok()?)))
        {
            threads.insert(what.rsplit(' ').next().unwrap().to_string(), tid);
        }
    }
    let memory = File::open(format!("/proc/{}/mem", child.0.id())).unwrap();

    let context = context(child.0.id(), &memory);
    let resource = context.resource.unwrap();
    let (resource, more) = (texts(&resource.attributes), texts(&context.attributes));
    assert_eq!(
        (resource["service.name"].as_str(), resource["service.version"].as_str()),
        ("outside", "1.2.3")
    );
    assert_eq!(more["threadlocal.schema_version"], "tlsdesc_v1_dev");
    assert_eq!(more["threadlocal.attribute_key_map"], "datadog.local_root_span_id");

    let offset = offset();
    let (keeping, changing) = (threads["keeping"], threads["changing"]);
    let (head, attributes) = record(&memory, &Stopped::new(keeping), offset).unwrap();
    assert_eq!(head[..4], [0x0a, 0xf7, 0x65, 0x19]);
    assert_eq!((&head[16..24], head[25]), (0xb7ad_6b71_6920_3331_u64.to_be_bytes().as_slice(), 1));
    assert!(attributes.is_empty(), "no local root was told");
    // The first thread of the process has set nothing.
    assert!(record(&memory, &Stopped::new(child.0.id() as libc::pid_t), offset).is_none());

    let mut seen: BTreeMap<Option<u8>, u32> = BTreeMap::new();
    for turn in 0..3000 {
        // It goes on for a while, never the same.
        std::thread::sleep(Duration::from_nanos(20_000 + turn * 7919 % 50_000));
        let found = record(&memory, &Stopped::new(changing), offset);
        if let Some((head, attributes)) = &found {
            let digit = head[0];
            assert!(head[..24].iter().chain([&head[25]]).all(|byte| *byte == digit), "torn: {head:x?}");
            let root = format!("{digit:02x}").repeat(8);
            assert_eq!((&attributes[..2], &attributes[2..]), ([0, 16].as_slice(), root.as_bytes()), "torn");
        }
        *seen.entry(found.map(|(head, _)| head[0])).or_default() += 1;
    }
    println!("{seen:?}");
    assert!(seen.len() == 3 && seen.contains_key(&Some(0xaa)) && seen.contains_key(&Some(0xbb)), "{seen:?}");
}
