//! A module's call-frame information in four bytes a row.
//!
//! Code is divided into pages of 4 KiB. An index says which rows start in each page, and a row is the twelve low bits of
//! its address beside the sixteen bits of its rule: one step through the index, then a binary search in a few dozen
//! neighbouring words. Built off the handler from a copy of the module's sections; read by the handler.

use core::ops::Range;

use super::cfi::{Records, Section, header, table_entries};
use super::page_vec::PageVec;
use super::rows::{Row, run};
use super::rule::{NO_RULE, Rule, RuleId, Rules};
use crate::regs::{PLT, plt_entry};

const PAGE_BITS: u32 = 12;
const OFFSET: u64 = (1 << PAGE_BITS) - 1;

/// The rows of one module.
#[derive(Debug)]
pub(super) struct Table {
    /// `offset in page << 16 | rule`.
    rows: PageVec<u32>,
    /// For each page, how many rows start before it; one more for the end.
    index: PageVec<u32>,
}

/// What came out of building tables, for tests and measurements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Rows of call-frame information that were read.
    pub read: usize,
    /// Rows kept: those that say something else than their neighbour.
    pub kept: usize,
    /// Rows whose rule is not supported: the walk treats their code as code without information.
    pub unsupported: usize,
    /// Records that made no sense.
    pub refused: usize,
    /// Different rules among them.
    pub rules: usize,
    /// Bytes of memory that the tables take, without the rules.
    pub bytes: usize,
    /// Whether the executable has a table: not where it was linked without `.eh_frame_hdr`.
    pub executable: bool,
}

/// The handler's view of a [`Table`], good for as long as the table is.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    rows: *const u32,
    index: *const u32,
    pages: u64,
}

impl Table {
    /// Reads the FDEs of code inside `text`: by `eh_frame_hdr`'s search table where it has one, or else all in order. The
    /// code itself is read by `code`, which says how many bytes of an address on there are: linkage tables are told by it.
    pub(super) fn build(
        text: Range<u64>,
        eh_frame_hdr: Section<'_>,
        eh_frame: Section<'_>,
        code: &dyn Fn(u64, &mut [u8]) -> usize,
        rules: &mut Rules,
        count: &mut Count,
    ) -> Option<Self> {
        let header = header(eh_frame_hdr)?;
        let mut builder = Builder::new(text, eh_frame.bytes.len(), code, rules, count)?;
        let mut records = Records::new(eh_frame);
        if header.table.is_some() && header.eh_frame == eh_frame.address {
            for offset in table_entries(eh_frame_hdr, header) {
                builder.add(&mut records, offset);
            }
        } else {
            for (_, offset) in sorted(&mut records)?.as_slice() {
                builder.add(&mut records, *offset);
            }
        }
        builder.finish()
    }

    pub(super) fn view(&self) -> View {
        let index = self.index.as_slice();
        View {
            rows: self.rows.as_slice().as_ptr(),
            index: index.as_ptr(),
            pages: index.len().saturating_sub(1) as u64,
        }
    }
}

impl View {
    /// The rule of the code `offset` bytes into the module's text. Async-signal-safe.
    ///
    /// # Safety
    ///
    /// The [`Table`] that the view was taken of must exist still.
    pub(super) unsafe fn rule(&self, offset: u64) -> RuleId {
        let page = offset >> PAGE_BITS;
        if page >= self.pages {
            return NO_RULE;
        }
        let index = self.index.wrapping_add(page as usize);
        // SAFETY: the index has `pages + 1` entries, and the caller promises that it is there.
        let mut from = unsafe { index.read() } as usize;
        // SAFETY: as above.
        let to = unsafe { index.wrapping_add(1).read() } as usize;
        // The row wanted is the last one that starts at `offset` or before, be it in an earlier page.
        let wanted = (((offset & OFFSET) as u32) << 16) | 0xffff;
        let mut len = to - from;
        while len > 0 {
            let half = len / 2;
            // SAFETY: the builder writes no index beyond the rows, and the caller promises that they are there.
            if unsafe { self.rows.wrapping_add(from + half).read() } <= wanted {
                from += half + 1;
                len -= half + 1;
            } else {
                len = half;
            }
        }
        if from == 0 {
            return NO_RULE;
        }
        // SAFETY: as above; `from` is at least one.
        unsafe { self.rows.wrapping_add(from - 1).read() as RuleId }
    }
}

/// Builds the table of a module from its sections and counts what came of it, without keeping it: to measure a file, and
/// for fuzzing. `None` where the header makes no sense. Any bytes may be given.
///
/// ```
/// use everprof_probe::unwind::{Section, check};
/// let garbage = Section { bytes: &[9, 9, 9, 9], address: 0x1000 };
/// assert_eq!(check(0x1000..0x2000, garbage, garbage), None);
/// ```
pub fn check(text: Range<u64>, eh_frame_hdr: Section<'_>, eh_frame: Section<'_>) -> Option<Count> {
    let mut count = Count::default();
    let mut rules = Rules::new()?;
    Table::build(text, eh_frame_hdr, eh_frame, &|_, _| 0, &mut rules, &mut count)?;
    count.rules = rules.len();
    Some(count)
}

/// The FDEs of a section without a search table, by the address of their code.
fn sorted(records: &mut Records<'_>) -> Option<PageVec<(u64, usize)>> {
    let mut list = PageVec::with_capacity(records.len() / 8)?;
    for offset in records.offsets() {
        if let Some((_, fde)) = records.fde(offset) {
            list.push((fde.start, offset));
        }
    }
    list.as_mut_slice().sort_unstable();
    Some(list)
}

/// How much of a gap between functions is read at a time, and how often that is done for a module at most.
const GAP_PART: usize = 4096;
const MOST_GAPS: usize = 4096;
/// Entries of linkage tables that get rules of their own making.
const MOST_STUBS: usize = 32_768;

/// So many rows are remembered with their rules.
const KNOWN: usize = 256;

struct Builder<'a> {
    text: Range<u64>,
    code: &'a dyn Fn(u64, &mut [u8]) -> usize,
    gaps_left: usize,
    stubs_left: usize,
    rows: PageVec<u32>,
    index: PageVec<u32>,
    rules: &'a mut Rules,
    /// Rows that were met, in short, and their rules.
    known: [(u64, RuleId); KNOWN],
    count: &'a mut Count,
    /// The end of the last FDE, and the rule of the last row.
    end: u64,
    last: RuleId,
}

impl<'a> Builder<'a> {
    fn new(
        text: Range<u64>,
        section_len: usize,
        code: &'a dyn Fn(u64, &mut [u8]) -> usize,
        rules: &'a mut Rules,
        count: &'a mut Count,
    ) -> Option<Self> {
        let len = usize::try_from(text.end.checked_sub(text.start)?).ok()?;
        Some(Self {
            end: text.start,
            text,
            // Every row takes a byte of instructions at least, and every FDE, which may add two, takes sixteen.
            rows: PageVec::with_capacity(section_len.checked_add(2 + 3 * MOST_STUBS)?)?,
            index: PageVec::with_capacity((len >> PAGE_BITS).checked_add(2)?)?,
            code,
            gaps_left: MOST_GAPS,
            stubs_left: MOST_STUBS,
            rules,
            known: [(0, NO_RULE); KNOWN],
            count,
            last: NO_RULE,
        })
    }

    fn add(&mut self, records: &mut Records<'_>, offset: usize) {
        let Some((cie, fde)) = records.fde(offset) else {
            self.count.refused += 1;
            return;
        };
        // Code that the linker dropped stays behind as an FDE at 0; overlaps do not occur in good files.
        if fde.start < self.end || fde.end > self.text.end || fde.start >= fde.end {
            self.count.refused += 1;
            return;
        }
        self.gap(fde.start);
        let known = cie.return_register == crate::regs::DWARF_RA;
        run(&cie, &fde, |location, row| {
            self.count.read += 1;
            let id = if known { self.rule(row, cie.signal) } else { NO_RULE };
            if id == NO_RULE {
                self.count.unsupported += 1;
            }
            self.push(location, id);
        });
        self.end = fde.end;
    }

    /// The rule of a row. Nearly all are of a few hundred kinds, over and over.
    fn rule(&mut self, row: &Row, signal: bool) -> RuleId {
        let key = if signal { None } else { row.short() };
        // The number of the place is that of the key's best mixed bits.
        let place = key.map(|key| (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize);
        let place = place.unwrap_or_default() % KNOWN;
        if let Some(&(known, id)) = self.known.get(place)
            && key == Some(known)
        {
            return id;
        }
        let id = Rule::of(row, signal).map_or(NO_RULE, |rule| self.rules.intern(rule));
        if let (Some(key), Some(known)) = (key, self.known.get_mut(place)) {
            *known = (key, id);
        }
        id
    }

    /// Code up to `end` that no FDE describes. Linkage tables among it get the rules that their linker did not write.
    fn gap(&mut self, end: u64) {
        if self.end >= end {
            return;
        }
        self.push(self.end, NO_RULE);
        let entry = self.end.next_multiple_of(PLT as u64);
        // Most gaps are what aligns the next function.
        if entry + PLT as u64 <= end {
            self.stubs(entry, end);
        }
    }

    /// The part of a gap from `entry` on, which has room for an entry of a linkage table. Apart, for its buffer.
    #[cold]
    #[inline(never)]
    fn stubs(&mut self, mut entry: u64, end: u64) {
        let mut bytes = [0; GAP_PART];
        while entry + PLT as u64 <= end && self.gaps_left > 0 {
            self.gaps_left -= 1;
            let part = usize::try_from(end - entry).unwrap_or(GAP_PART).min(GAP_PART);
            let Some(into) = bytes.get_mut(..part) else { break };
            let read = (self.code)(entry, into);
            for code in into.get(..read).unwrap_or_default().as_chunks::<PLT>().0 {
                self.stub(entry, plt_entry(code).filter(|_| self.stubs_left > 0));
                entry += PLT as u64;
            }
            if read < GAP_PART {
                break;
            }
        }
        self.push(entry.min(end), NO_RULE);
    }

    fn stub(&mut self, entry: u64, rows: Option<[(u8, u8); 2]>) {
        let Some(rows) = rows else { return self.push(entry, NO_RULE) };
        self.stubs_left -= 1;
        for (offset, words) in rows {
            let id = self.rules.intern(Rule::of_stub(words));
            self.push(entry + u64::from(offset), id);
        }
    }

    fn push(&mut self, address: u64, rule: RuleId) {
        if rule == self.last {
            return;
        }
        let offset = address - self.text.start;
        self.fill_index(offset >> PAGE_BITS);
        if self.rows.push(((offset & OFFSET) as u32) << 16 | u32::from(rule)) {
            self.last = rule;
        }
    }

    /// Says of each page up to `page` where its rows start.
    fn fill_index(&mut self, page: u64) {
        while self.index.as_slice().len() as u64 <= page {
            let rows = self.rows.as_slice().len() as u32;
            if !self.index.push(rows) {
                return;
            }
        }
    }

    fn finish(mut self) -> Option<Table> {
        self.gap(self.text.end);
        self.push(self.text.end, NO_RULE);
        let pages = (self.text.end - self.text.start).div_ceil(1 << PAGE_BITS);
        self.fill_index(pages);
        self.rows.shrink_to_fit();
        self.index.shrink_to_fit();
        let (rows, index) = (self.rows.as_slice().len(), self.index.as_slice().len());
        self.count.kept += rows;
        self.count.bytes += (rows + index) * size_of::<u32>();
        Some(Table { rows: self.rows, index: self.index })
    }
}
