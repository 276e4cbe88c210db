//! The kinds of profile and what each of them counts: one table, read by the aggregator, the encoders and the docs.
//!
//! Names and order are those of Go's `runtime/pprof`, the lingua franca of the field, and `off_cpu`, which that does not
//! have, is what Pyroscope calls it, and `gil` what Python's users do; they never change for a kind, because merging and comparing profiles needs identical
//! sample types. So the highest state of the heap is a kind of its own, and `heap` has the four types that every reader knows.

/// What a value counts: profile.proto's `ValueType`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ValueType {
    /// What is counted, such as `cpu`.
    pub name: String,
    /// In which unit, such as `nanoseconds`.
    pub unit: String,
}

impl ValueType {
    /// A value type from its two names.
    pub fn new(name: impl Into<String>, unit: impl Into<String>) -> Self {
        Self { name: name.into(), unit: unit.into() }
    }

    /// Whether its values are of a moment, as those of the live heap are: those of one process at two moments do not add up.
    ///
    /// ```
    /// use everprof::profile::ValueType;
    /// assert!(ValueType::new("inuse_space", "bytes").is_level());
    /// assert!(!ValueType::new("alloc_space", "bytes").is_level());
    /// ```
    pub fn is_level(&self) -> bool {
        self.name.starts_with("inuse_") || self.name.starts_with("peak_")
    }
}

/// A kind of profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// CPU time by stack.
    Cpu,
    /// Time by stack, on the processor or not.
    Wall,
    /// Time by stack in which a thread waited, or was ready to run and had no processor: the other part of [`Kind::Wall`].
    OffCpu,
    /// Live threads by stack, at one moment.
    Threads,
    /// Allocations by stack: objects and bytes.
    Alloc,
    /// The same, and what of it and of all before lives at the end: the live heap.
    Heap,
    /// The live heap at the moment of the period at which it was largest.
    Peak,
    /// Waits for locks that another thread held, by who waited.
    Lock,
    /// The same by who held the lock and gave it back, as Go has it.
    Mutex,
    /// Every wait of a thread for another one, by who waited, as Go has it: for locks, conditions, channels, or to be woken.
    Block,
    /// Waits for the lock by which the threads of a runtime take turns, such as Python's, by who waited.
    Gil,
    /// Pauses in which a runtime collects garbage, by the stack at which they began.
    Gc,
}

impl Kind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Kind; 12] = [
        Kind::Cpu,
        Kind::Wall,
        Kind::OffCpu,
        Kind::Threads,
        Kind::Alloc,
        Kind::Heap,
        Kind::Peak,
        Kind::Lock,
        Kind::Mutex,
        Kind::Block,
        Kind::Gil,
        Kind::Gc,
    ];

    /// The name in options and file names.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Cpu => "cpu",
            Kind::Wall => "wall",
            Kind::OffCpu => "offcpu",
            Kind::Threads => "threads",
            Kind::Alloc => "alloc",
            Kind::Heap => "heap",
            Kind::Peak => "peak",
            Kind::Lock => "lock",
            Kind::Mutex => "mutex",
            Kind::Block => "block",
            Kind::Gil => "gil",
            Kind::Gc => "gc",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it is made of looks at threads that wait.
    pub(crate) fn needs_looks(self) -> bool {
        matches!(self, Kind::Wall | Kind::OffCpu)
    }

    /// Whether it is made of samples of allocations.
    pub(crate) fn needs_allocations(self) -> bool {
        matches!(self, Kind::Alloc | Kind::Heap | Kind::Peak)
    }

    /// Whether it is made of samples of waits for others.
    pub(crate) fn needs_locks(self) -> bool {
        matches!(self, Kind::Lock | Kind::Mutex | Kind::Block | Kind::Gil)
    }

    /// Whether it is made of what the hooks of calls tell, which has an account of its own.
    pub(crate) fn needs_hooks(self) -> bool {
        self.needs_allocations() || self.needs_locks()
    }

    /// Whether it is made of what runtimes record themselves, and of nothing else.
    pub(crate) fn needs_recorder(self) -> bool {
        self == Kind::Gc
    }

    /// What the values of a sample are, in order.
    pub fn sample_types(self) -> Vec<ValueType> {
        match self {
            Kind::Cpu => vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")],
            Kind::Wall => vec![ValueType::new("samples", "count"), ValueType::new("wall", "nanoseconds")],
            Kind::OffCpu => {
                vec![ValueType::new("samples", "count"), ValueType::new("off_cpu", "nanoseconds")]
            }
            Kind::Threads => vec![ValueType::new("threads", "count")],
            Kind::Alloc => {
                vec![ValueType::new("alloc_objects", "count"), ValueType::new("alloc_space", "bytes")]
            }
            Kind::Heap => vec![
                ValueType::new("alloc_objects", "count"),
                ValueType::new("alloc_space", "bytes"),
                ValueType::new("inuse_objects", "count"),
                ValueType::new("inuse_space", "bytes"),
            ],
            Kind::Peak => {
                vec![ValueType::new("peak_objects", "count"), ValueType::new("peak_space", "bytes")]
            }
            Kind::Lock | Kind::Mutex | Kind::Block | Kind::Gil => {
                vec![ValueType::new("contentions", "count"), ValueType::new("delay", "nanoseconds")]
            }
            Kind::Gc => vec![ValueType::new("collections", "count"), ValueType::new("pause", "nanoseconds")],
        }
    }

    /// The sample type a viewer shows first.
    pub const fn default_sample_type(self) -> &'static str {
        match self {
            Kind::Cpu => "cpu",
            Kind::Wall => "wall",
            Kind::OffCpu => "off_cpu",
            Kind::Threads => "threads",
            Kind::Alloc => "alloc_space",
            Kind::Heap => "inuse_space",
            Kind::Peak => "peak_space",
            Kind::Lock | Kind::Mutex | Kind::Block | Kind::Gil => "delay",
            Kind::Gc => "pause",
        }
    }

    /// What the period is measured in.
    pub fn period_type(self) -> ValueType {
        match self {
            Kind::Cpu => ValueType::new("cpu", "nanoseconds"),
            Kind::Wall => ValueType::new("wall", "nanoseconds"),
            Kind::OffCpu => ValueType::new("off_cpu", "nanoseconds"),
            Kind::Threads => ValueType::new("threads", "count"),
            Kind::Alloc | Kind::Heap | Kind::Peak => ValueType::new("space", "bytes"),
            Kind::Lock | Kind::Mutex | Kind::Block | Kind::Gil => {
                ValueType::new("contentions", "nanoseconds")
            }
            Kind::Gc => ValueType::new("pause", "nanoseconds"),
        }
    }
}
