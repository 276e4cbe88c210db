//! Pages with slots that the loader has made read-only, while these are changed.
//!
//! Slots of one object lie side by side, so each page is asked about, made writable and made read-only again once, and not for each
//! of its slots: that is three system calls for a page. No more than the pages that hold slots are touched: another one
//! may have been left writable by somebody who means to write there.

use core::cell::RefCell;
use core::sync::atomic::AtomicUsize;

use crate::os::{self, Protection};

/// How many pages of one object are open at once; of more, the oldest is closed.
const MOST: usize = 8;

/// What may be done in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    /// It is writable, and we have made it so.
    Open,
    /// It is writable, and stays so.
    Free,
    /// The loader may be at work there.
    Busy,
    /// The kernel does not let us.
    Refused,
}

/// The pages of one object that have been met, which are read-only again when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Pages {
    known: RefCell<([Option<(u64, Page)>; MOST], usize)>,
}

impl Pages {
    /// What may be done in the page of `word`, which is one of those that the loader makes read-only; with `settled` it is
    /// known that it has done so, where it does.
    pub(super) fn open(&self, word: &AtomicUsize, settled: bool) -> Page {
        let page = core::ptr::from_ref(word) as u64 & !(os::page_size() - 1);
        let Ok(mut known) = self.known.try_borrow_mut() else { return Page::Busy };
        let (pages, next) = &mut *known;
        if let Some((_, found)) = pages.iter().flatten().find(|(known, _)| *known == page) {
            return *found;
        }
        let found = match os::is_writable(word) {
            Some(false) => Self::make_writable(page),
            // Nobody has made it read-only for a while: so it stays.
            Some(true) if settled => Page::Free,
            None if settled => Self::make_writable(page),
            _ => Page::Busy,
        };
        if let Some(place) = pages.get_mut(*next) {
            *next = (*next + 1) % MOST;
            close(place.replace((page, found)));
        }
        found
    }

    fn make_writable(page: u64) -> Page {
        if os::protect(page, Protection::Write) { Page::Open } else { Page::Refused }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        self.known.get_mut().0.iter_mut().for_each(|place| close(place.take()));
    }
}

fn close(page: Option<(u64, Page)>) {
    if let Some((page, Page::Open)) = page {
        os::protect(page, Protection::Read);
    }
}
