//! Messages on stderr, for who asks for them by `EVERPROF_LOG`.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use everprof_probe::os;
use log::{LevelFilter, Log, Metadata, Record};

/// Installs the logger where `EVERPROF_LOG` says something. How much it says is for everprof to look after.
pub(crate) fn install_as_asked() {
    let is_asked = std::env::var_os("EVERPROF_LOG").is_some_and(|level| !level.is_empty());
    if let (true, Some((_, file))) = (is_asked, stderr())
        && log::set_boxed_logger(Box::new(Stderr { file })).is_ok()
    {
        log::set_max_level(LevelFilter::Trace);
    }
}

struct Stderr {
    /// Device and number of the file that it was: its descriptor may be something else later, such as a daemon's data.
    file: (u64, u64),
}

/// Stderr by a descriptor of our own, with its device and number. Std's has a lock besides, that a thread of the parent may have
/// held at a fork.
fn stderr() -> Option<(File, (u64, u64))> {
    let file = File::from(std::io::stderr().as_fd().try_clone_to_owned().ok()?);
    let is = file.metadata().ok()?;
    Some((file, (is.dev(), is.ino())))
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "everprof"
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some((mut file, _)) = stderr().filter(|(_, is)| *is == self.file) else { return };
        let line = format!(
            "everprof[{}] {}: {}\n",
            std::process::id(),
            record.level().as_str().to_ascii_lowercase(),
            record.args()
        );
        // In one piece, so that lines of other processes do not come in between.
        let _ = os::without_signals_of_writes(|| file.write_all(line.as_bytes()));
    }

    fn flush(&self) {}
}
