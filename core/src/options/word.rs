//! Choices between words.

use super::value::{Setting, Shape};

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $word_doc:literal])+ $variant:ident = $word:literal,)+ })+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name { $($(#[doc = $word_doc])+ $variant,)+ }

        impl Setting for $name {
            const SHAPE: Shape = Shape::Word;

            fn accepts() -> String {
                [$($word),+].join(", ")
            }

            fn parse(text: &str) -> Result<Self, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("give one of {}", Self::accepts())),
                }
            }

            fn text(&self) -> String {
                match self { $(Self::$variant => $word.to_string(),)+ }
            }
        }
    )+};
}

words! {
    /// How much of an address is turned into source.
    Symbolize {
        /// Build IDs and addresses only: somebody else names them.
        Off = "off",
        /// Function names from symbol tables.
        Names = "names",
        /// Names, lines and inlined functions from debug information, and names where there is none.
        Lines = "lines",
    }
    /// What paces CPU samples.
    CpuClock {
        /// A CPU timer for each thread.
        Timer = "timer",
        /// The kernel's `perf_event` task clock.
        PerfEvent = "perf_event",
    }
    /// Whether a thread that waits may get a signal of ours.
    WallSignal {
        /// Once for each of its waits, where the kernel does not tell enough; and when it is met.
        Auto = "auto",
        /// Not at all.
        Never = "never",
    }
    /// What is told of the tasks of Python's asyncio.
    AsyncTasks {
        /// Nothing.
        Off = "off",
        /// Which of them a sample is of.
        Names = "names",
        /// That, and what those wait for that do not run.
        Waits = "waits",
    }
    /// Whether allocations are seen where C's functions are called.
    Malloc {
        /// Where the program's own allocator is not everprof's.
        Auto = "auto",
        /// Always, so that those of C libraries are told as well.
        On = "on",
        /// Not at all.
        Off = "off",
    }
    /// What becomes of a profile that was sent, and nobody knows whether it arrived.
    Guarantee {
        /// It is given up, and counted.
        AtMostOnce = "at_most_once",
        /// It is sent again.
        AtLeastOnce = "at_least_once",
    }
    /// The least important of our own messages that are logged.
    LogLevel {
        /// No messages.
        Off = "off",
        /// What keeps us from profiling.
        Error = "error",
        /// What makes profiles worse than they could be.
        Warn = "warn",
        /// Starting, stopping, and what was decided at the start.
        Info = "info",
        /// What helps to debug everprof itself.
        Debug = "debug",
    }
}

impl LogLevel {
    /// The same for the `log` crate.
    pub const fn filter(self) -> log::LevelFilter {
        match self {
            LogLevel::Off => log::LevelFilter::Off,
            LogLevel::Error => log::LevelFilter::Error,
            LogLevel::Warn => log::LevelFilter::Warn,
            LogLevel::Info => log::LevelFilter::Info,
            LogLevel::Debug => log::LevelFilter::Debug,
        }
    }
}

/// The signal that takes samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignalChoice {
    /// SIGPROF, or a free real-time signal where somebody else uses SIGPROF.
    Auto,
    /// SIGPROF, and an error where it is not free.
    Prof,
    /// A real-time signal that is free: what a program does to all signals that it knows, such as `sort` and Node.js at their
    /// start, is seldom done to those.
    Realtime,
    /// The signal of that number, and an error where it is not free.
    Number(i32),
}

const SIGPROF: i32 = 27;
/// Signals with no fixed meaning to the kernel, the C library or the shell: SIGUSR1, SIGUSR2, SIGALRM, SIGSTKFLT,
/// SIGVTALRM, SIGIO, SIGPWR. A real-time signal from 34 is as good; 32 and 33 belong to the C library.
const FREE_SIGNALS: [i32; 7] = [10, 12, 14, 16, 26, 29, 30];

impl Setting for SignalChoice {
    const SHAPE: Shape = Shape::NumberOrText;

    fn accepts() -> String {
        "auto, prof, realtime, or a number: 34 to 64, 10, 12, 14, 16, 26, 29 or 30".to_string()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        match (text.as_str(), text.parse()) {
            ("auto", _) => Ok(Self::Auto),
            ("realtime", _) => Ok(Self::Realtime),
            ("prof" | "sigprof", _) | (_, Ok(SIGPROF)) => Ok(Self::Prof),
            (_, Ok(number)) if (34..=64).contains(&number) || FREE_SIGNALS.contains(&number) => {
                Ok(Self::Number(number))
            }
            _ => Err(format!("give {}", Self::accepts())),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Auto => "auto".to_string(),
            Self::Prof => "prof".to_string(),
            Self::Realtime => "realtime".to_string(),
            Self::Number(number) => number.to_string(),
        }
    }
}
