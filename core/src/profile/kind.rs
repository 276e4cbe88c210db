//! The kinds of profile and what each of them counts: one table, read by the aggregator, the encoders and the docs.
//!
//! Names and order are those of Go's `runtime/pprof`, the lingua franca of the field, and `off_cpu`, which that does not
//! have, is what Pyroscope calls it; they never change for a kind, because merging and comparing profiles needs identical
//! sample types.

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
}

impl Kind {
    /// Every kind, in the order of their declaration.
    pub const ALL: [Kind; 4] = [Kind::Cpu, Kind::Wall, Kind::OffCpu, Kind::Threads];

    /// The name in options and file names.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Cpu => "cpu",
            Kind::Wall => "wall",
            Kind::OffCpu => "offcpu",
            Kind::Threads => "threads",
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

    /// What the values of a sample are, in order.
    pub fn sample_types(self) -> Vec<ValueType> {
        match self {
            Kind::Cpu => vec![ValueType::new("samples", "count"), ValueType::new("cpu", "nanoseconds")],
            Kind::Wall => vec![ValueType::new("samples", "count"), ValueType::new("wall", "nanoseconds")],
            Kind::OffCpu => {
                vec![ValueType::new("samples", "count"), ValueType::new("off_cpu", "nanoseconds")]
            }
            Kind::Threads => vec![ValueType::new("threads", "count")],
        }
    }

    /// The sample type a viewer shows first.
    pub const fn default_sample_type(self) -> &'static str {
        match self {
            Kind::Cpu => "cpu",
            Kind::Wall => "wall",
            Kind::OffCpu => "off_cpu",
            Kind::Threads => "threads",
        }
    }

    /// What the period is measured in.
    pub fn period_type(self) -> ValueType {
        match self {
            Kind::Cpu => ValueType::new("cpu", "nanoseconds"),
            Kind::Wall => ValueType::new("wall", "nanoseconds"),
            Kind::OffCpu => ValueType::new("off_cpu", "nanoseconds"),
            Kind::Threads => ValueType::new("threads", "count"),
        }
    }
}
