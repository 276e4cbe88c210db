//! Where tags are looked up: the environment, and files below a root. Tests put in their own.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;

type Lookup = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The environment and the file system that [`super::Tags::resolve`] reads.
pub struct Sources {
    vars: Lookup,
    root: PathBuf,
    executable: Option<String>,
}

/// None of the files read here is longer where it is what it should be.
const MOST_BYTES: u64 = 256 << 10;

impl Sources {
    /// This process's environment and file system. Variables are read when tags are resolved, not now.
    pub fn host() -> Self {
        // The name it was called by stands in where there is no /proc.
        let executable =
            std::env::current_exe().ok().or_else(|| std::env::args_os().next().map(PathBuf::from));
        Self {
            vars: Box::new(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())),
            root: PathBuf::from("/"),
            executable: executable.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())),
        }
    }

    /// These variables, and the files below `root` as if it were `/`: for tests, or to look at another container.
    pub fn fake<'a>(vars: impl IntoIterator<Item = (&'a str, &'a str)>, root: impl Into<PathBuf>) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_string(), value.to_string());
        let vars: HashMap<String, String> = vars.into_iter().map(owned).collect();
        Self { vars: Box::new(move |name| vars.get(name).cloned()), root: root.into(), executable: None }
    }

    /// The same with another name of the executable.
    pub fn with_executable(mut self, name: impl Into<String>) -> Self {
        self.executable = Some(name.into());
        self
    }

    /// A variable that is set to something.
    pub(super) fn var(&self, name: &str) -> Option<String> {
        (self.vars)(name).filter(|value| !value.trim().is_empty())
    }

    /// The start of a file, by its path from the root; none where it cannot be read or is empty.
    pub(super) fn file(&self, path: &str) -> Option<String> {
        let file = std::fs::File::open(self.root.join(path)).ok()?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        (!text.trim().is_empty()).then_some(text)
    }

    /// The file name of the executable.
    pub(super) fn executable(&self) -> Option<String> {
        self.executable.clone()
    }
}
