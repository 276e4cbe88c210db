//! What the symbolizer did, and why names are missing where they are.

/// Why a module, a unit of debug information or an address stayed without names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The file could not be opened or read.
    Missing,
    /// The file at the path is not the one that was mapped.
    Replaced,
    /// The file, or a part of it, is not what it should be.
    Malformed,
    /// Reading it would have gone over the memory budget.
    OverBudget,
    /// It uses something that is not supported, such as a compression that is not built in.
    Unsupported,
}

impl Reason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Reason; 5] =
        [Reason::Missing, Reason::Replaced, Reason::Malformed, Reason::OverBudget, Reason::Unsupported];

    /// The reason's stable name, in snake_case.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Missing => "missing",
            Reason::Replaced => "replaced",
            Reason::Malformed => "malformed",
            Reason::OverBudget => "over_budget",
            Reason::Unsupported => "unsupported",
        }
    }
}

/// Counters of one [`super::Symbolizer`] since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Module files opened, debug files among them.
    pub files: u64,
    /// Addresses asked for.
    pub addresses: u64,
    /// Addresses answered from the cache.
    pub cached: u64,
    /// Addresses answered, but for the symbol table, from what is known of the functions that they are in.
    pub known: u64,
    /// Addresses that got at least one frame, cached ones included.
    pub named: u64,
    /// The most bytes of files and tables held at one time, beside the cache.
    pub peak_bytes: u64,
    /// Bytes that hold what is known of functions that were met, beside the cache.
    pub kept_bytes: u64,
    failures: [u64; Reason::ALL.len()],
}

impl Stats {
    /// How often `reason` left something without names.
    pub fn failures(&self, reason: Reason) -> u64 {
        self.failures[reason as usize]
    }

    pub(crate) fn fail(&mut self, reason: Reason) {
        self.failures[reason as usize] += 1;
    }
}
