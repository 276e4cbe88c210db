//! The small profile in every format, byte for byte: what changes here changes for every reader.
//!
//! `make bless` writes the files anew.

use std::path::{Path, PathBuf};

use everprof::encode::collapsed::Collapsed;
use everprof::encode::{collapsed, pprof, speedscope};

use crate::profiles::{content, small};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/formats/golden")
}

pub fn check(name: &str, bytes: &[u8]) {
    let path = folder().join(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    let equal = golden == bytes;
    assert!(
        equal,
        "{name} is not as it was; see what changed, and run `make bless` if it should:\n{}",
        String::from_utf8_lossy(bytes)
    );
}

#[test]
fn pprof_bytes() {
    check("small.pb", &pprof::encode_uncompressed(&small()));
}

#[test]
fn the_golden_file_reads_as_the_profile() {
    let golden = std::fs::read(folder().join("small.pb")).unwrap();
    assert_eq!(content(&pprof::decode(&golden).unwrap()), content(&small()));
}

#[test]
fn collapsed_text() {
    check("small.collapsed.txt", collapsed::encode(&small()).unwrap().as_bytes());
}

#[test]
fn collapsed_text_by_thread_and_tenant() {
    let by_thread =
        Collapsed::default().sample_type("samples").root_label("thread_name").root_label("tenant");
    check("small.threads.collapsed.txt", by_thread.encode(&small()).unwrap().as_bytes());
    let error = Collapsed::default().sample_type("heap").encode(&small()).unwrap_err().to_string();
    assert_eq!(error, "the profile has no sample type heap: it has samples, cpu");
}

#[test]
fn speedscope_json() {
    let json = speedscope::encode(&small());
    // The version of this crate is in the file, and changes without the format.
    let exporter = format!("everprof@{}", env!("CARGO_PKG_VERSION"));
    assert!(json.contains(&exporter));
    check("small.speedscope.json", json.replace(&exporter, "everprof").as_bytes());
}
