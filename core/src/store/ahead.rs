//! Reads profiles ahead of whoever adds them up.
//!
//! A few threads, named `everprof-read`, unpack files while the caller's own sums them, in the order that it names: as many
//! as there are processors for this process, four at most. Each holds one file, which it reads or which waits to be taken.
//! They end with the call. Where no thread can be had, the caller reads by itself.

use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use super::merge::read_loose;
use crate::encode::pprof::Read;
use crate::error::Result;

const MOST: usize = 4;

/// Calls `work` with what hands out the profiles of `paths`, one after the other.
pub(super) fn reading<T>(
    paths: &[&Path],
    work: impl FnOnce(&mut dyn FnMut() -> Option<Result<Read>>) -> T,
) -> T {
    let processors = thread::available_parallelism().map_or(1, |count| count.get().min(MOST));
    let readers = if processors > 1 && paths.len() > 2 { processors } else { 0 };
    thread::scope(|scope| {
        let mut waiting: Vec<Receiver<Result<Read>>> = Vec::with_capacity(readers);
        for number in 0..readers {
            // Without room: a reader goes on when its file was taken.
            let (sender, receiver) = sync_channel(0);
            let read = move || {
                for path in paths.iter().skip(number).step_by(readers) {
                    // Nobody wants the rest.
                    if sender.send(read_loose(path)).is_err() {
                        break;
                    }
                }
            };
            match thread::Builder::new().name("everprof-read".into()).spawn_scoped(scope, read) {
                Ok(_) => waiting.push(receiver),
                Err(_) => {
                    // Those that were started end at their first file.
                    waiting.clear();
                    break;
                }
            }
        }
        let mut next = 0;
        work(&mut || {
            let path = paths.get(next)?;
            let reader = next.checked_rem(waiting.len()).and_then(|number| waiting.get(number));
            next += 1;
            Some(match reader.map(Receiver::recv) {
                Some(Ok(read)) => read,
                _ => read_loose(path),
            })
        })
    })
}
