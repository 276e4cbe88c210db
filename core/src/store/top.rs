//! The top table: which functions of a profile cost the most.

use super::functions::{Costs, Identity};
use super::table;
use crate::error::Result;
use crate::profile::{Profile, ValueType};

/// The functions of a profile by what they cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// What the values count.
    pub sample_type: ValueType,
    /// The sum over all samples.
    pub total: i64,
    /// One row a function, those that cost the most by themselves first.
    pub rows: Vec<TopRow>,
}

/// One function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopRow {
    /// Its name; the name of its object file in brackets where it has none.
    pub function: String,
    /// Its source file, without what differs from build to build; or empty.
    pub file: String,
    /// What it costs by itself: stacks in which it is the leaf.
    pub own: i64,
    /// What it costs with all it calls: stacks in which it is. Recursion counts once.
    pub total: i64,
}

/// The top table of a profile, in its default sample type. Inlined functions have rows of their own.
///
/// # Errors
/// [`crate::ErrorKind::InvalidData`] where the profile has no sample types.
///
/// ```
/// use everprof::profile::{Kind, Profile};
/// let top = everprof::store::top(&Profile::new(Kind::Cpu)).unwrap();
/// assert!(top.render(10).starts_with("0 ns of cpu in all\n"));
/// ```
pub fn top(profile: &Profile) -> Result<Top> {
    top_of(profile, profile.find_sample_type(None)?)
}

impl Top {
    /// The top table of a profile in the sample type of that name, such as `samples`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidData`] where the profile has no such sample type, naming those that it has.
    pub fn of(profile: &Profile, name: &str) -> Result<Top> {
        top_of(profile, profile.find_sample_type(Some(name))?)
    }

    /// The first `rows` rows as plain text.
    pub fn render(&self, rows: usize) -> String {
        let unit = &self.sample_type.unit;
        let total = self.total as f64;
        let lines: Vec<Vec<String>> = self
            .rows
            .iter()
            .take(rows)
            .map(|row| {
                let (own, all) = (row.own as f64, row.total as f64);
                vec![
                    table::amount(own, unit),
                    table::percent(own, total),
                    table::amount(all, unit),
                    table::percent(all, total),
                    table::one_line(&row.function),
                ]
            })
            .collect();
        let heads = ["self", "self%", "total", "total%", "function"];
        let head = format!("{} of {} in all\n", table::amount(total, unit), self.sample_type.name);
        head + &table::render(&heads, &lines)
    }
}

fn top_of(profile: &Profile, place: usize) -> Result<Top> {
    let costs = Costs::of(profile, place, false);
    let row = |(Identity { name, file }, cost): (Identity, super::functions::Cost)| TopRow {
        function: name,
        file,
        own: cost.own,
        total: cost.total,
    };
    let mut rows: Vec<TopRow> =
        costs.by_function.into_iter().map(row).filter(|row| (row.own, row.total) != (0, 0)).collect();
    rows.sort_by(|a, b| {
        (b.own, b.total)
            .cmp(&(a.own, a.total))
            .then_with(|| (&a.function, &a.file).cmp(&(&b.function, &b.file)))
    });
    Ok(Top { sample_type: profile.sample_types[place].clone(), total: costs.total, rows })
}
