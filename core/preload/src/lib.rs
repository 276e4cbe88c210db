//! everprof for programs that nobody can change: `LD_PRELOAD=libeverprof_preload.so` and options from `EVERPROF_…`.
//!
//! The loader calls [`at_load`] when the C library is ready, and before the program's own constructors: early enough to see
//! what they allocate, and before the program changes its user or enters a sandbox, which our threads then are no part of.
//! The last profile is written when the process calls `exit` or returns from `main`; a process that ends by `_exit`, by
//! `exec` or by a signal whose action is the default, such as SIGTERM, writes what its last whole period had.
//!
//! The program's output is its own: messages go to stderr only where `EVERPROF_LOG` asks for them, and only as long as that is
//! the file that it was at the start. What goes wrong leaves the program alone.

mod logger;

use std::panic::catch_unwind;
use std::path::PathBuf;

use everprof::Profiler;
use everprof::options::{Options, Preload};
use everprof_probe::os;

/// The loader calls what is listed in this section, once, when it has loaded the library.
#[used]
// SAFETY: an array of addresses of functions that are called with the program's arguments, which this one does not look at.
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

extern "C" fn at_load() {
    // No panic passes into the loader, and none is told on the program's stderr.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let _ = catch_unwind(start);
    std::panic::set_hook(hook);
}

fn start() {
    // With rights that its caller has not, a program does not do as its environment says.
    if os::is_privileged() {
        return;
    }
    let options = match Options::from_env() {
        Ok(options) => options,
        Err(error) => {
            logger::install_as_asked();
            log::error!(target: "everprof", "everprof does not profile: {error}");
            return;
        }
    };
    if !options.is_enabled() || !is_wanted(&options.preload) {
        return;
    }
    logger::install_as_asked();
    let builder = Profiler::builder();
    // Many a program does something to all signals that it knows, SIGPROF among them.
    let is_chosen = std::env::var_os("EVERPROF_SIGNAL").is_some_and(|signal| !signal.is_empty());
    let builder = if is_chosen { builder } else { builder.set("signal", "realtime") };
    match builder.start() {
        // The last profile is written at the exit.
        Ok(profiler) => std::mem::forget(profiler),
        Err(error) => log::error!(target: "everprof", "everprof does not profile: {error}"),
    }
}

/// Whether this program is one of those to profile.
fn is_wanted(preload: &Preload) -> bool {
    match preload {
        Preload::First => os::is_first(),
        Preload::Named(names) => {
            // A link may have the name that everybody knows.
            let called = std::env::args_os().next().map(PathBuf::from);
            let mut programs = [std::env::current_exe().ok(), called].into_iter().flatten();
            programs.any(|program| {
                let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
                names.iter().any(|wanted| wanted == name.trim_end_matches(" (deleted)"))
            })
        }
        _ => true,
    }
}
