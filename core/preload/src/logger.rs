//! Messages on stderr, for who asks for them by `EVERPROF_LOG`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use log::{LevelFilter, Log, Metadata, Record};

/// Where stderr leads to: a descriptor of this number may be something else later, such as a daemon's data.
const STDERR: &str = "/proc/self/fd/2";

/// Installs the logger where `EVERPROF_LOG` says something. How much it says is for everprof to look after.
pub(crate) fn install_as_asked() {
    let is_asked = std::env::var_os("EVERPROF_LOG").is_some_and(|level| !level.is_empty());
    if let (true, Some(file)) = (is_asked, stderr())
        && log::set_boxed_logger(Box::new(Stderr { file })).is_ok()
    {
        log::set_max_level(LevelFilter::Trace);
    }
}

struct Stderr {
    /// Device and number of the file that it was.
    file: (u64, u64),
}

fn stderr() -> Option<(u64, u64)> {
    fs::metadata(STDERR).ok().map(|file| (file.dev(), file.ino()))
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "everprof"
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) || stderr() != Some(self.file) {
            return;
        }
        // In one piece, so that lines of other processes do not come in between.
        let line = format!(
            "everprof[{}] {}: {}\n",
            std::process::id(),
            record.level().as_str().to_ascii_lowercase(),
            record.args()
        );
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
