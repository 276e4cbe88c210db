//! From the sums of a period to its profile: addresses get names, samples their weight and their labels.

use std::collections::{BTreeMap, HashMap, HashSet};

use everprof_probe::sample::{Frame, frames};

use super::book::part_of;
use super::period::Period;
use crate::aggregate::{Key, Sums};
use crate::labels::LabelSet;
use crate::profile::{
    Function, Kind, Label, LabelsId, Line, Location, LocationId, Mapping, MappingId, Profile, StackId,
};
use crate::recorder::NamedFrame;
use crate::symbolize::{self, Module, SymbolFrame, Symbolizer, runtime};

/// The keys of labels that everprof sets itself; a user's label of that name gives way.
const RESERVED: [&str; 4] = ["thread_name", "thread_id", "trace_id", "span_id"];

/// The profile of a period.
pub(super) fn build(period: &Period, symbolizer: &mut Symbolizer, mode: symbolize::Mode) -> Profile {
    let mut builder = Builder::new(period, symbolizer, mode);
    builder.name_addresses();
    let weights = Weights::of(period);
    let mut rows: Vec<(Key, Sums)> = period.sums.rows().collect();
    // The hash map's order is random; a file should not be.
    rows.sort_unstable_by_key(|(key, _)| (key.stack, key.thread, key.labels, key.span_id, key.trace_id));
    for (key, sums) in rows {
        builder.add(key, weights.weigh(&key, sums));
    }
    for (stack, thread, labels, sums) in period.recorded.rows() {
        builder.add_recorded(&stack, thread, labels, sums);
    }
    let lost = period.recorded.lost();
    if lost.count != 0 {
        builder.add_frame("lost: too many recorded samples", None, lost);
    }
    for part in &period.stackless {
        builder.add_frame(part.reason, part.thread, part.sums);
    }
    builder.profile
}

/// What samples stand for in the end, so that those of each thread stand for what it has used.
struct Weights<'p> {
    period: &'p Period,
    /// Nanoseconds that the samples of a thread stand for by themselves.
    by_thread: HashMap<u32, u64>,
    /// Nanoseconds of unmet threads that samples of discovered ones speak for, by themselves.
    discovered: u64,
}

impl<'p> Weights<'p> {
    fn of(period: &'p Period) -> Self {
        let mut weights = Self { period, by_thread: HashMap::new(), discovered: 0 };
        for (key, sums) in period.sums.rows() {
            *weights.by_thread.entry(key.thread).or_default() += sums.nanos;
            weights.discovered += if key.unclaimed { sums.count } else { 0 };
        }
        weights
    }

    fn weigh(&self, key: &Key, sums: Sums) -> Sums {
        let all = self.by_thread.get(&key.thread).copied().unwrap_or_default();
        let correction = self.period.corrections.get(&key.thread).copied().unwrap_or_default();
        let nanos = part_of(all.saturating_add_signed(correction), sums.nanos, all);
        if !key.unclaimed {
            return Sums { nanos, ..sums };
        }
        let nanos = nanos + part_of(self.period.unmet, sums.count, self.discovered);
        let step = u64::from(self.period.sampling_period.max(1));
        Sums { count: (nanos + step / 2) / step, nanos }
    }
}

struct Builder<'p> {
    period: &'p Period,
    symbolizer: &'p mut Symbolizer,
    mode: symbolize::Mode,
    profile: Profile,
    locations: HashMap<(u32, u64), LocationId>,
    runtime_locations: HashMap<(u8, u64, u64), LocationId>,
    stacks: Vec<Option<StackId>>,
    /// Modules with addresses, of which none has a name that somebody gave.
    nameless: HashSet<&'p Module>,
}

impl<'p> Builder<'p> {
    fn new(period: &'p Period, symbolizer: &'p mut Symbolizer, mode: symbolize::Mode) -> Self {
        let mut profile = Profile::new(Kind::Cpu);
        profile.period = i64::from(period.sampling_period);
        profile.time_nanos = period.time_nanos;
        profile.duration_nanos = period.duration_nanos;
        let stacks = vec![None; period.sums.stack_count() as usize];
        Self {
            period,
            symbolizer,
            mode,
            profile,
            locations: HashMap::new(),
            runtime_locations: HashMap::new(),
            stacks,
            nameless: HashSet::new(),
        }
    }

    /// Names every address of the period, module by module, so that each file is read once.
    fn name_addresses(&mut self) {
        let period = self.period;
        let mut by_module: BTreeMap<(u32, u64), (&Module, Vec<u64>)> = BTreeMap::new();
        let mut unknown = Vec::new();
        let mut seen = HashSet::new();
        for stack in 0..period.sums.stack_count() {
            let (epoch, words) = period.sums.stack(stack);
            for frame in frames(words) {
                let Frame::Native(address) = frame else { continue };
                if !seen.insert((epoch, address)) {
                    continue;
                }
                match period.module(epoch, address) {
                    Some(module) => {
                        by_module
                            .entry((epoch, module.start))
                            .or_insert((module, Vec::new()))
                            .1
                            .push(address);
                    }
                    None => unknown.push((epoch, address)),
                }
            }
        }
        let mut resolved = Vec::with_capacity(by_module.len());
        let mut named = HashSet::new();
        for ((epoch, _), (module, addresses)) in by_module {
            let symbols = self.symbolizer.resolve(module, &addresses);
            if symbols.iter().flat_map(|symbols| symbols.iter()).any(SymbolFrame::is_symbol) {
                named.insert(module);
            }
            resolved.push((epoch, module, addresses, symbols));
        }
        let modules = resolved.iter().map(|(_, module, ..)| *module);
        self.nameless = modules.filter(|module| !named.contains(module)).collect();
        // The first mapping of a profile is the main binary, whether or not a sample lies in it.
        if let Some(main) = period.epochs.last().and_then(|modules| modules.first()) {
            self.mapping(main);
        }
        for (epoch, module, addresses, symbols) in resolved {
            let mapping = self.mapping(module);
            for (address, symbols) in addresses.into_iter().zip(symbols) {
                let lines = if symbols.is_empty() {
                    self.nameless(module, address)
                } else {
                    symbols.iter().map(|frame| self.line(frame)).collect()
                };
                let location = Location { mapping: Some(mapping), address, lines };
                let id = self.profile.location(location);
                self.locations.insert((epoch, address), id);
            }
        }
        for (epoch, address) in unknown {
            let lines = vec![self.named_line(&format!("0x{address:x}"))];
            let id = self.profile.location(Location { mapping: None, address, lines });
            self.locations.insert((epoch, address), id);
        }
    }

    /// An address in a file that cannot be read: the module and the offset in it, unless names are to be found later.
    fn nameless(&mut self, module: &Module, address: u64) -> Vec<Line> {
        if self.mode == symbolize::Mode::Off {
            return Vec::new();
        }
        vec![self.named_line(&format!("{}+0x{:x}", module.name(), module.offset(address)))]
    }

    fn add(&mut self, key: Key, sums: Sums) {
        let stack = self.stack(key.stack);
        let labels = self.labels(key);
        self.profile.add(stack, labels, &[sums.count as i64, sums.nanos as i64]);
    }

    /// Adds time that has no stack, under a frame that says why.
    fn add_frame(&mut self, name: &str, thread: Option<u32>, sums: Sums) {
        let lines = vec![self.named_line(&format!("[{name}]"))];
        let location = self.profile.location(Location { lines, ..Location::default() });
        let stack = self.profile.stack(&[location]);
        let labels = match thread {
            Some(thread) => self.labels(Key { thread, ..Key::default() }),
            None => self.profile.labels(&[]),
        };
        self.profile.add(stack, labels, &[sums.count as i64, sums.nanos as i64]);
    }

    fn stack(&mut self, at: u32) -> StackId {
        if let Some(Some(id)) = self.stacks.get(at as usize) {
            return *id;
        }
        let period = self.period;
        let (epoch, words) = period.sums.stack(at);
        let locations: Vec<LocationId> = frames(words).map(|frame| self.location(epoch, frame)).collect();
        let id = self.profile.stack(&locations);
        if let Some(place) = self.stacks.get_mut(at as usize) {
            *place = Some(id);
        }
        id
    }

    fn location(&mut self, epoch: u32, frame: Frame) -> LocationId {
        match frame {
            Frame::Native(address) => match self.locations.get(&(epoch, address)) {
                Some(id) => *id,
                // Every native address was named before; this is only for the compiler.
                None => self.profile.location(Location { address, ..Location::default() }),
            },
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
        let named = !self.nameless.contains(module);
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

    fn labels(&mut self, key: Key) -> LabelsId {
        let mut labels = own_labels(self.period.sums.labels(key.labels));
        if let Some((name, tid)) = self.period.threads.get(key.thread as usize) {
            if !name.is_empty() {
                labels.push(Label::text("thread_name", &**name));
            }
            if let Some(tid) = tid {
                labels.push(Label::number("thread_id", i64::from(*tid), "id"));
            }
        }
        if key.trace_id != 0 {
            labels.push(Label::text("trace_id", format!("{:032x}", key.trace_id)));
        }
        if key.span_id != 0 {
            labels.push(Label::text("span_id", format!("{:016x}", key.span_id)));
        }
        self.profile.labels(&labels)
    }
}

/// The labels that the application set. A key must not stand twice in a sample, so those that are ours are left out.
fn own_labels(set: Option<&LabelSet>) -> Vec<Label> {
    let own = set.into_iter().flat_map(LabelSet::iter).filter(|(key, _)| !RESERVED.contains(key));
    own.map(|(key, value)| Label::text(key, value)).collect()
}
