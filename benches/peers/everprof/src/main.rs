//! everprof, as a program would use it: `Profiler::builder()`, with its profiles kept in memory.

use std::mem::MaybeUninit;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use everprof::encode::pprof;
use everprof::export::{Exporter, Set};
use everprof::profile::{LabelValue, Profile};
use everprof::{Labels, Profiler, Result};
use everprof_probe::os::Clock;
use everprof_probe::thread;
use harness::{Peer, Stack};

static SETS: Mutex<Vec<Set>> = Mutex::new(Vec::new());

struct Keep;

impl Exporter for Keep {
    fn name(&self) -> String {
        "memory".into()
    }

    fn export(&mut self, set: &Set) -> Result<()> {
        SETS.lock().expect("nobody panicked").push(set.clone());
        Ok(())
    }
}

struct Everprof(Profiler);

impl Peer for Everprof {
    fn start(rate_hz: u32) -> Self {
        let threads = std::env::var_os("THREAD_IDS").map_or("off", |_| "on");
        let builder =
            Profiler::builder().rate_hz(rate_hz).set("thread_ids", threads).set("cpu_budget_percent", "100");
        Self(builder.exporters(|| vec![Box::new(Keep)]).start().expect("it starts"))
    }

    fn start_wall(rate_hz: u32) -> Option<Self> {
        // Without looks, and what is the default beside them: to see what they add.
        let kinds = std::env::var("KINDS").unwrap_or("cpu,wall".into());
        let builder = Profiler::builder().set("kinds", kinds).set("wall_rate_hz", rate_hz.to_string());
        Some(Self(builder.exporters(|| vec![Box::new(Keep)]).start().expect("it starts")))
    }

    fn start_pushing(url: &str, rate_hz: u32) -> Option<Self> {
        // One profile for all the time.
        let builder = Profiler::builder().rate_hz(rate_hz).service("bench").set("period_s", "3600");
        Some(Self(builder.set("push", format!("pyroscope+{url}")).start().expect("it starts")))
    }

    fn ready(&self) -> Option<libc::siginfo_t> {
        // SAFETY: a system call without arguments.
        let tid = unsafe { libc::gettid() } as u32;
        loop {
            if let Some(slot) = thread::find(tid)
                && slot.period() != 0
            {
                return Some(signal_of_timer(slot.address()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn own_cpu(&self) -> Option<(Duration, Duration)> {
        let stats = self.0.stats();
        Some((stats.own_cpu(), stats.process_cpu))
    }

    fn label(&self, times: u32) -> bool {
        let labels = Labels::new([("tenant", "acme")]);
        for _ in 0..times {
            drop(std::hint::black_box(&labels).enter());
        }
        true
    }

    fn snapshot(&mut self) -> Option<(usize, Duration)> {
        // They are taken on everprof's first thread and named on its second.
        static SAMPLER: OnceLock<Option<u32>> = OnceLock::new();
        // Once: to look for it takes as long as a snapshot.
        let clock = Clock::Thread((*SAMPLER.get_or_init(|| thread_called("everprof")))?);
        let before = clock.now()?;
        let profile = everprof::threads().expect("a snapshot");
        Some((profile.samples().len(), Duration::from_nanos(clock.now()? - before)))
    }

    type Report = Vec<Set>;

    fn report(&mut self) -> Vec<Set> {
        let _ = self.0.flush();
        std::mem::take(&mut *SETS.lock().expect("nobody panicked"))
    }

    fn stacks(mut self) -> Vec<Stack> {
        let sets = self.report();
        let stats = self.0.stats();
        assert_eq!(stats.lost, 0, "the buffers were too small for the measure: {stats:?}");
        let encoded = sets.iter().flat_map(|set| &set.profiles);
        encoded.flat_map(|one| stacks(&pprof::decode(&one.bytes).expect("a profile"))).collect()
    }
}

/// The id of a thread.
fn thread_called(name: &str) -> Option<u32> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?.flatten();
    let mut ids = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    let is_called = |id: &u32| {
        std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).is_ok_and(|comm| comm.trim() == name)
    };
    ids.find(is_called)
}

/// What the kernel passes to the handler when the timer of the thread's slot has expired.
fn signal_of_timer(slot: usize) -> libc::siginfo_t {
    // SAFETY: all-zero is a valid siginfo.
    let mut info: libc::siginfo_t = unsafe { MaybeUninit::zeroed().assume_init() };
    info.si_signo = libc::SIGPROF;
    info.si_code = libc::SI_TIMER;
    // SAFETY: a timer's value lies 24 bytes into the siginfo of 64-bit Linux.
    unsafe { (&raw mut info).cast::<usize>().add(3).write(slot) };
    info
}

fn stacks(profile: &Profile) -> Vec<Stack> {
    let of = |sample: everprof::profile::Sample<'_>| {
        let locations =
            || profile.get_stack(sample.stack).iter().map(|location| profile.get_location(*location));
        let lines = locations().flat_map(|location| &location.lines);
        let name = |function| profile.text(profile.get_function(function).name).to_string();
        let mut stack = Stack {
            addresses: locations().map(|location| location.address).collect(),
            names: lines.map(|line| name(line.function)).collect(),
            nanos: sample.values[1] as u64,
            ..Stack::default()
        };
        for label in profile.get_labels(sample.labels) {
            match (label.key.as_ref(), &label.value) {
                ("thread_name", LabelValue::Text(name)) => stack.thread = name.to_string(),
                ("thread_id", LabelValue::Number(tid, _)) => stack.tid = Some(*tid as u32),
                _ => {}
            }
        }
        stack
    };
    profile.samples().map(of).collect()
}

fn main() {
    harness::run::<Everprof>();
}
