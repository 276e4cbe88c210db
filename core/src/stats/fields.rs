//! The fields of [`Stats`] by name, for whoever shows all of them: the bindings' dictionaries, their stubs, and tests.

use std::time::Duration;

use super::Stats;
use crate::profile::Verdict;

/// What a field of [`Stats`] holds.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum StatValue {
    /// Yes or no.
    Flag(bool),
    /// A number of things.
    Count(u64),
    /// A number that need not be whole; of a time, its seconds.
    Number(f64),
    /// Text, or none where there is nothing to say.
    Text(Option<String>),
    /// Words.
    Words(Vec<&'static str>),
}

/// A row of the table of fields.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StatSpec {
    /// The name, which is the field's.
    pub name: &'static str,
    /// Whether it may be missing.
    pub optional: bool,
    lines: &'static str,
    value: fn(&Stats) -> StatValue,
}

impl StatSpec {
    /// What it means, in plain sentences.
    pub fn doc(&self) -> String {
        self.lines.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// What `stats` has of it.
    pub fn value(&self, stats: &Stats) -> StatValue {
        (self.value)(stats)
    }
}

impl Stats {
    /// Every field, in the order of the documentation. Times are seconds.
    ///
    /// ```
    /// use everprof::stats::{StatValue, Stats};
    /// let running = Stats::table().iter().find(|spec| spec.name == "running").unwrap();
    /// assert_eq!(running.value(&Stats::default()), StatValue::Flag(false));
    /// ```
    pub fn table() -> &'static [StatSpec] {
        super::TABLE
    }
}

/// A type of a field.
pub(super) trait Field {
    const OPTIONAL: bool = false;
    fn value(&self) -> StatValue;
}

macro_rules! fields {
    ($($type:ty: |$field:ident| $value:expr;)+) => {$(
        impl Field for $type {
            fn value(&self) -> StatValue {
                let $field = self;
                $value
            }
        }
    )+};
}

fields! {
    bool: |flag| StatValue::Flag(*flag);
    u64: |count| StatValue::Count(*count);
    i32: |number| StatValue::Count(u64::try_from(*number).unwrap_or_default());
    f64: |number| StatValue::Number(*number);
    Duration: |time| StatValue::Number(time.as_secs_f64());
    String: |text| StatValue::Text(Some(text.clone()));
    &'static str: |text| StatValue::Text(Some(text.to_string()));
    Vec<&'static str>: |words| StatValue::Words(words.clone());
}

impl Field for Option<String> {
    const OPTIONAL: bool = true;

    fn value(&self) -> StatValue {
        StatValue::Text(self.clone())
    }
}

impl Field for Option<Verdict> {
    const OPTIONAL: bool = true;

    fn value(&self) -> StatValue {
        StatValue::Text(self.as_ref().map(Verdict::to_string))
    }
}

/// Makes of the definition of [`Stats`] the struct and its table.
macro_rules! table {
    ($(#[$meta:meta])* pub struct Stats { $($(#[doc = $doc:literal])+ pub $name:ident: $type:ty,)+ }) => {
        $(#[$meta])*
        pub struct Stats { $($(#[doc = $doc])+ pub $name: $type,)+ }

        static TABLE: &[StatSpec] = &[$(StatSpec::new(
            stringify!($name),
            <$type as fields::Field>::OPTIONAL,
            concat!($($doc),+),
            |stats| fields::Field::value(&stats.$name),
        )),+];
    };
}
pub(super) use table;

impl StatSpec {
    pub(super) const fn new(
        name: &'static str,
        optional: bool,
        lines: &'static str,
        value: fn(&Stats) -> StatValue,
    ) -> Self {
        Self { name, optional, lines, value }
    }
}
