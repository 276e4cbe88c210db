//! From the sums of a period to its profiles: addresses get names, samples their weight and their labels.

mod heap;
mod locks;
mod tasks;
mod threads;
mod time;

use std::collections::HashMap;

use everprof_probe::sample::{Frame, frames};

use super::names::Names;
use super::period::Period;
use super::weights::Weights;
use crate::aggregate::{Key, Sums};
use crate::labels::LabelSet;
use crate::profile::{
    Function, Kind, Label, LabelsId, Line, Location, LocationId, Mapping, MappingId, Profile, StackId,
};
use crate::recorder::NamedFrame;
use crate::symbolize::{self, Module, SymbolFrame, runtime};

pub(super) use heap::heap;
pub(super) use locks::locks;
pub(super) use threads::threads;
pub(super) use time::{off_cpu, wall};

/// The keys of labels that everprof sets itself; a user's label of that name gives way.
const RESERVED: [&str; 5] = ["thread_name", "thread_id", "trace_id", "span_id", "local_root_span_id"];

/// The number of no stack.
const NO_STACK: u32 = u32::MAX;

/// The profile of a period's CPU time.
pub(super) fn cpu(period: &Period, names: &Names<'_>, mode: symbolize::Mode) -> Profile {
    let mut builder = Builder::new(Kind::Cpu, period, names, mode);
    let weights = Weights::of(period);
    for (key, sums) in rows(period) {
        builder.add(key, &[], weights.weigh(&key, sums));
    }
    builder.add_all_recorded();
    for part in &period.stackless {
        builder.add_frame(part.reason, part.thread, &[], part.sums);
    }
    builder.profile
}

/// The profile of what runtimes recorded of this kind, and of nothing else.
pub(super) fn recorded(kind: Kind, period: &Period, names: &Names<'_>, mode: symbolize::Mode) -> Profile {
    let mut builder = Builder::new(kind, period, names, mode);
    builder.profile.period = 1;
    builder.add_all_recorded();
    builder.profile
}

/// The rows of CPU time, in an order that is the same every time: a hash map's is not.
fn rows(period: &Period) -> Vec<(Key, Sums)> {
    let mut rows: Vec<(Key, Sums)> = period.sums.rows().collect();
    rows.sort_unstable_by_key(|(key, _)| order(key));
    rows
}

fn order(key: &Key) -> (u32, u32, u32, u32) {
    (key.stack, key.thread, key.labels, key.trace)
}

/// Functions that are in the way, by how their names begin, and by what is part of the paths of their files.
struct Plumbing {
    names: &'static [&'static str],
    files: &'static [&'static str],
}

impl Plumbing {
    fn has(&self, profile: &Profile, line: &Line) -> bool {
        let function = profile.get_function(line.function);
        let (name, file) = (profile.text(function.name), profile.text(function.filename));
        let name = name.trim_start_matches('<');
        self.names.iter().any(|prefix| name.starts_with(prefix))
            || self.files.iter().any(|part| file.contains(part))
    }
}

struct Builder<'p> {
    kind: Kind,
    period: &'p Period,
    names: &'p Names<'p>,
    mode: symbolize::Mode,
    profile: Profile,
    locations: HashMap<(u32, u64), LocationId>,
    runtime_locations: HashMap<(u8, u64, u64), LocationId>,
    stacks: Vec<Option<StackId>>,
    /// What runtimes say of samples, by their stacks.
    said: HashMap<u32, Vec<Label>>,
}

impl<'p> Builder<'p> {
    fn new(kind: Kind, period: &'p Period, names: &'p Names<'p>, mode: symbolize::Mode) -> Self {
        let mut profile = Profile::new(kind);
        profile.period = i64::from(period.sampling_period);
        profile.time_nanos = period.time_nanos;
        profile.duration_nanos = period.duration_nanos;
        let stacks = vec![None; period.sums.stack_count() as usize];
        let mut builder = Self {
            kind,
            period,
            names,
            mode,
            profile,
            locations: HashMap::new(),
            runtime_locations: HashMap::new(),
            stacks,
            said: HashMap::new(),
        };
        // The first mapping of a profile is the main binary, whether or not a sample lies in it.
        if let Some(main) = period.epochs.last().and_then(|modules| modules.first()) {
            builder.mapping(main);
        }
        builder
    }

    fn native_location(&mut self, epoch: u32, address: u64) -> LocationId {
        if let Some(id) = self.locations.get(&(epoch, address)) {
            return *id;
        }
        let names = self.names;
        let named = names.get(epoch, address);
        let location = match named.and_then(|named| Some((named.module?, &named.symbols))) {
            Some((module, symbols)) => {
                let mapping = Some(self.mapping(module));
                let lines = if symbols.is_empty() {
                    self.nameless(module, address)
                } else {
                    symbols.iter().map(|frame| self.line(frame)).collect()
                };
                Location { mapping, address, lines }
            }
            None => {
                let lines = vec![self.named_line(&format!("0x{address:x}"))];
                Location { mapping: None, address, lines }
            }
        };
        let id = self.profile.location(location);
        self.locations.insert((epoch, address), id);
        id
    }

    /// An address in a file that cannot be read: the module and the offset in it, unless names are to be found later.
    fn nameless(&mut self, module: &Module, address: u64) -> Vec<Line> {
        if self.mode == symbolize::Mode::Off {
            return Vec::new();
        }
        vec![self.named_line(&format!("{}+0x{:x}", module.name(), module.offset(address)))]
    }

    fn add(&mut self, key: Key, more: &[Label], sums: Sums) {
        let stack = self.stack(key.stack);
        let labels = self.labels(key, more);
        self.profile.add(stack, labels, &[sums.count as i64, sums.nanos as i64]);
    }

    /// Adds time in which a thread would have run, at stacks that it ran with: what was said of those is not said of it, since
    /// where it stood then is not known.
    fn add_ready(&mut self, key: Key, more: &[Label], sums: Sums) {
        let stack = self.stack(key.stack);
        let labels = self.labels_with(key, &[], more);
        self.profile.add(stack, labels, &[sums.count as i64, sums.nanos as i64]);
    }

    /// Adds time that has no stack, under a frame that says why.
    fn add_frame(&mut self, name: &str, thread: Option<u32>, more: &[Label], sums: Sums) {
        let stack = self.mark(name);
        let labels = match thread {
            Some(thread) => self.labels(Key { thread, stack: NO_STACK, ..Key::default() }, more),
            None => self.profile.labels(more),
        };
        self.profile.add(stack, labels, &[sums.count as i64, sums.nanos as i64]);
    }

    /// A stack of one frame that says something of us.
    fn mark(&mut self, name: &str) -> StackId {
        let lines = vec![self.named_line(&format!("[{name}]"))];
        let location = self.profile.location(Location { lines, ..Location::default() });
        self.profile.stack(&[location])
    }

    fn stack(&mut self, at: u32) -> StackId {
        if let Some(Some(id)) = self.stacks.get(at as usize) {
            return *id;
        }
        let period = self.period;
        let (epoch, words) = period.sums.stack(at);
        let mut locations = Vec::new();
        // From the caller of a function that waits for a condition on.
        let mut callers = None;
        for frame in frames(words) {
            if let Frame::Runtime(kind, payload, word) = frame
                && let Some(label) = runtime::label(kind, payload, word)
            {
                if matches!(self.kind, Kind::Cpu | Kind::Wall) {
                    self.say(at, label);
                }
                continue;
            }
            match (frame, &mut callers) {
                (Frame::Native(address), _) if self.waits_for_condition(epoch, address) => {
                    callers = Some(Vec::new())
                }
                (Frame::Native(address), Some(callers)) => callers.push(address),
                _ => {}
            }
            locations.push(self.location(epoch, frame));
        }
        if let Some(label) = callers.and_then(|callers| runtime::label_of_wait(words, &callers)) {
            self.say(at, label);
        }
        let id = self.profile.stack(&locations);
        if let Some(place) = self.stacks.get_mut(at as usize) {
            *place = Some(id);
        }
        id
    }

    /// Whether the function at this address is C's for such waits.
    fn waits_for_condition(&self, epoch: u32, address: u64) -> bool {
        let names = self.names.get(epoch, address).map_or(&[][..], |named| &named.symbols);
        self.kind != Kind::Cpu
            && names.iter().any(|frame| frame.name.trim_start_matches('_').starts_with("pthread_cond_"))
    }

    fn say(&mut self, at: u32, (key, value): runtime::RuntimeLabel) {
        self.said.insert(at, vec![Label::text(key, value)]);
    }

    /// A stack without the functions at its leaf that are in the way of all that is told. What is inlined into one of them is
    /// too, whatever it is called: of functions that are inlined, debug information often knows the last part of the name only.
    fn stack_without(&mut self, at: u32, plumbing: &Plumbing) -> StackId {
        let whole = self.stack(at);
        let locations = self.profile.get_stack(whole).to_vec();
        let lines = |id: LocationId| &self.profile.get_location(id).lines;
        let is_plumbing = |line: &Line| plumbing.has(&self.profile, line);
        let Some(first) = locations.iter().position(|id| !lines(*id).last().is_some_and(is_plumbing)) else {
            return whole;
        };
        let mut own = locations.get(first..).unwrap_or_default().to_vec();
        if let Some(leaf) = own.first_mut() {
            let left: Vec<Line> = lines(*leaf).iter().skip_while(|line| is_plumbing(line)).copied().collect();
            let rest = Location { lines: left, ..self.profile.get_location(*leaf).clone() };
            *leaf = self.profile.location(rest);
        }
        self.profile.stack(&own)
    }

    fn location(&mut self, epoch: u32, frame: Frame) -> LocationId {
        match frame {
            Frame::Native(address) => self.native_location(epoch, address),
            Frame::Missing(count) => {
                let name = match count {
                    0 => "[incomplete stack]".to_string(),
                    _ => "[truncated stack]".to_string(),
                };
                let lines = vec![self.named_line(&name)];
                self.profile.location(Location { lines, ..Location::default() })
            }
            Frame::Runtime(kind, payload, word) => self.runtime_location(kind, payload, word),
        }
    }

    fn runtime_location(&mut self, kind: u8, payload: u64, word: u64) -> LocationId {
        if let Some(id) = self.runtime_locations.get(&(kind, payload, word)) {
            return *id;
        }
        let frame = runtime::resolve(kind, payload, word).unwrap_or_else(|| runtime::RuntimeFrame {
            name: format!("[frame of runtime {kind}]"),
            ..runtime::RuntimeFrame::default()
        });
        let id = self.named_location(&frame.name, &frame.file, frame.line, frame.start_line);
        self.runtime_locations.insert((kind, payload, word), id);
        id
    }

    /// Adds the ready-made samples of the profile's kind.
    fn add_all_recorded(&mut self) {
        let period = self.period;
        for (stack, thread, labels, sums) in period.recorded.rows(self.kind) {
            self.add_recorded(&stack, thread, labels, sums);
        }
        let lost = period.recorded.lost(self.kind);
        if lost.count != 0 {
            self.add_frame("lost: too many recorded samples", None, &[], lost);
        }
    }

    /// Adds a ready-made sample.
    fn add_recorded(&mut self, stack: &[&NamedFrame], thread: &str, labels: Option<&LabelSet>, sums: Sums) {
        let location =
            |frame: &&NamedFrame| self.named_location(&frame.name, &frame.file, frame.line, frame.start_line);
        let locations: Vec<LocationId> = stack.iter().map(location).collect();
        let stack = self.profile.stack(&locations);
        let mut labels = own_labels(labels);
        if !thread.is_empty() {
            labels.push(Label::text("thread_name", thread));
        }
        let labels = self.profile.labels(&labels);
        self.profile.add(stack, labels, &[sums.count as i64, sums.nanos as i64]);
    }

    /// Adds the wait of a runtime's task.
    fn add_recorded_wait(
        &mut self,
        stack: &[&NamedFrame],
        wait: &str,
        labels: Option<&LabelSet>,
        sums: Sums,
    ) {
        let location =
            |frame: &&NamedFrame| self.named_location(&frame.name, &frame.file, frame.line, frame.start_line);
        let mut locations: Vec<LocationId> = stack.iter().map(location).collect();
        locations.push(self.named_location(tasks::ROOT, "", 0, 0));
        let stack = self.profile.stack(&locations);
        let mut labels = own_labels(labels);
        labels.retain(|label| label.key != "state" && label.key != "wait");
        labels.extend([Label::text("state", "awaiting"), Label::text("wait", wait)]);
        let labels = self.profile.labels(&labels);
        self.profile.add(stack, labels, &[sums.count as i64, sums.nanos as i64]);
    }

    fn named_location(&mut self, name: &str, file: &str, line: u32, start_line: u32) -> LocationId {
        let name = self.profile.string(name);
        let filename = self.profile.string(file);
        let start_line = i64::from(start_line);
        let function = self.profile.function(Function { name, system_name: name, filename, start_line });
        let line = Line { function, line: i64::from(line), column: 0 };
        self.profile.location(Location { lines: vec![line], ..Location::default() })
    }

    fn mapping(&mut self, module: &Module) -> MappingId {
        let filename = self.profile.string(&module.path.to_string_lossy());
        let build_id = self.profile.string(&module.build_id);
        // Where no name was found a reader of the profile may look for them, by the build ID.
        let named = !self.names.is_nameless(module);
        let lines = named && self.mode == symbolize::Mode::Lines;
        self.profile.mapping(Mapping {
            memory_start: module.start,
            memory_limit: module.end,
            file_offset: module.file_offset,
            filename,
            build_id,
            has_functions: named && self.mode != symbolize::Mode::Off,
            has_filenames: lines,
            has_line_numbers: lines,
            has_inline_frames: lines,
        })
    }

    fn line(&mut self, frame: &SymbolFrame) -> Line {
        let name = self.profile.string(&frame.name);
        let system_name = self.profile.string(&frame.system_name);
        let filename = self.profile.string(&frame.file);
        let start_line = i64::from(frame.start_line);
        let function = self.profile.function(Function { name, system_name, filename, start_line });
        Line { function, line: i64::from(frame.line), column: i64::from(frame.column) }
    }

    fn named_line(&mut self, name: &str) -> Line {
        let name = self.profile.string(name);
        let function = self.profile.function(Function { name, system_name: name, ..Function::default() });
        Line { function, line: 0, column: 0 }
    }

    fn labels(&mut self, key: Key, more: &[Label]) -> LabelsId {
        let said = self.said.get(&key.stack).cloned().unwrap_or_default();
        self.labels_with(key, &said, more)
    }

    fn labels_with(&mut self, key: Key, said: &[Label], more: &[Label]) -> LabelsId {
        let mut labels = own_labels(self.period.sums.labels(key.labels));
        if let Some((name, tid)) = self.period.threads.get(key.thread as usize) {
            if !name.is_empty() {
                labels.push(Label::text("thread_name", &**name));
            }
            if let Some(tid) = tid {
                labels.push(Label::number("thread_id", i64::from(*tid), "id"));
            }
        }
        if let Some(trace) = self.period.sums.trace(key.trace) {
            if trace.trace_id != 0 {
                labels.push(Label::text("trace_id", format!("{:032x}", trace.trace_id)));
            }
            labels.push(Label::text("span_id", format!("{:016x}", trace.span_id)));
            if trace.local_root != 0 {
                labels.push(Label::text("local_root_span_id", format!("{:016x}", trace.local_root)));
            }
        }
        // Only in profiles that have them: a program may well call a label of its own `state`.
        for ours in [said, more] {
            labels.retain(|label| !ours.iter().any(|ours| ours.key == label.key));
            labels.extend_from_slice(ours);
        }
        self.profile.labels(&labels)
    }
}

/// The labels that the application set. A key must not stand twice in a sample, so those that are ours are left out.
fn own_labels(set: Option<&LabelSet>) -> Vec<Label> {
    let own = set.into_iter().flat_map(LabelSet::iter).filter(|(key, _)| !RESERVED.contains(key));
    own.map(|(key, value)| Label::text(key, value)).collect()
}
