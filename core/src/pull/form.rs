//! A profile in the form that was asked for.

use std::borrow::Cow;

use super::answer::{Answer, HTML, TEXT};
use super::route::{Form, Work};
use super::{accounts, text};
use crate::encode::collapsed::Collapsed;
use crate::encode::flamegraph::{self, PageOptions};
use crate::encode::speedscope::Speedscope;
use crate::encode::{Format, pprof};
use crate::error::Result;
use crate::profile::{Kind, Profile};

impl Work {
    /// The headers that the answer would have.
    pub(super) fn head(&self) -> Answer {
        match self {
            Work::Change { name, form, .. } | Work::Record { name, form, delta: true, .. } => {
                answer(&format!("{name}-delta"), *form, Vec::new())
            }
            Work::Record { name, form, .. } => answer(name, *form, Vec::new()),
            Work::Snapshot { debug, .. } if *debug != 0 => Answer::of(TEXT, ""),
            Work::Snapshot { name, form, .. } => answer(name, *form, Vec::new()),
            Work::Symbols(_) => Answer::of(TEXT, ""),
            Work::Index => Answer::of(HTML, ""),
        }
    }

    /// What of a profile was asked for.
    pub(super) fn only<'p>(&self, profile: &'p Profile) -> Cow<'p, Profile> {
        match self {
            Work::Record { only, .. } | Work::Change { only, .. } | Work::Snapshot { only, .. } => {
                only.in_profile(profile)
            }
            Work::Symbols(_) | Work::Index => Cow::Borrowed(profile),
        }
    }

    /// The answer that brings `profile`.
    pub(super) fn answer(&self, profile: &Profile) -> Result<Answer> {
        let mut answer = self.head();
        let profile = &*self.only(profile);
        answer.body = match self {
            Work::Snapshot { name, kind, debug, .. } if *debug != 0 => match kind {
                Kind::Threads => text::threads(profile, name, *debug),
                Kind::Heap => accounts::heap(profile),
                _ => accounts::waits(profile, name),
            }
            .into_bytes(),
            Work::Record { form, .. } | Work::Change { form, .. } | Work::Snapshot { form, .. } => {
                written(profile, *form)?
            }
            Work::Symbols(_) | Work::Index => Vec::new(),
        };
        Ok(answer)
    }
}

fn answer(name: &str, form: Form, body: Vec<u8>) -> Answer {
    match form {
        Form::Pprof => Answer::file(name, body),
        // Made of names that are not ours: nobody is to frame it, and its own policy allows nothing.
        Form::Page => {
            Answer::of(HTML, body).with("Cache-Control", "no-store").with("X-Frame-Options", "DENY")
        }
        Form::Collapsed => Answer::of(TEXT, body),
        Form::Speedscope => Answer::of(Format::Speedscope.media_type(), body).with(
            "Content-Disposition",
            format!("attachment; filename=\"{name}.{}\"", Format::Speedscope.extension()),
        ),
    }
}

fn written(profile: &Profile, form: Form) -> Result<Vec<u8>> {
    Ok(match form {
        Form::Pprof => pprof::encode(profile),
        Form::Page => flamegraph::html(profile, &PageOptions::default()).into_bytes(),
        Form::Collapsed => Collapsed::default().encode(profile)?.into_bytes(),
        Form::Speedscope => Speedscope::default().encode(profile).into_bytes(),
    })
}
