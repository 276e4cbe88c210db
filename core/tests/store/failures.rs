//! Directories that cannot be written: clear errors, nothing lost, and the next period tries again.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use everprof::ErrorKind;
use everprof::encode::{Format, Set};
use everprof::store::{Directory, Query, Retention, list, read};

use crate::support::{Folder, files, set};

fn write(dir: &Path, set: &Set) -> Result<(), String> {
    Directory::new(dir, Retention::default()).write(set).map_err(|error| {
        assert_eq!(error.kind(), ErrorKind::Storage);
        error.to_string()
    })
}

#[test]
fn a_file_or_a_link_to_nowhere_in_place_of_the_directory() {
    let folder = Folder::new("in-place");
    let file = folder.join("file");
    std::fs::write(&file, "precious").unwrap();
    let error = write(&file, &set(0, 0)).unwrap_err();
    assert_eq!(error, format!("cannot write {}: it is a file; name a directory", file.display()));
    let error = write(&file.join("below"), &set(0, 0)).unwrap_err();
    assert!(
        error.starts_with(&format!("cannot create the directory {}/below: Not a directory", file.display()))
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let link = folder.join("link");
    symlink(folder.join("nowhere"), &link).unwrap();
    let error = write(&link, &set(0, 0)).unwrap_err();
    assert_eq!(error, format!("cannot write {}: it is a symbolic link that leads nowhere", link.display()));
    // The next period finds it put right.
    std::fs::create_dir(folder.join("nowhere")).unwrap();
    write(&link, &set(1, 0)).unwrap();
    assert_eq!(
        list(&link, &Query::default()).unwrap().len(),
        1,
        "a link to a directory is as good as the directory"
    );
}

#[test]
fn links_inside_the_directory_are_not_followed() {
    let (dir, outside) = (Folder::new("inside"), Folder::new("outside"));
    symlink(&*outside, dir.join("shop")).unwrap();
    let error = write(&dir, &set(0, 0)).unwrap_err();
    let expected = "it is not a folder, and symbolic links are not followed here";
    assert_eq!(error, format!("cannot write {}: {expected}", dir.join("shop").display()));
    assert_eq!(files(&outside).len(), 0);
}

#[test]
fn a_directory_without_permission() {
    let dir = Folder::new("read-only");
    write(&dir, &set(0, 0)).unwrap();
    let service = dir.join("shop");
    let day = std::fs::read_dir(&service).unwrap().next().unwrap().unwrap().path();
    let permit = |mode| std::fs::set_permissions(&day, std::fs::Permissions::from_mode(mode)).unwrap();
    permit(0o500);
    if std::fs::write(day.join("probe"), "").is_ok() {
        // Root may write anywhere: somebody else has to try.
        std::fs::remove_file(day.join("probe")).unwrap();
        permit(0o755);
        eprintln!("a_directory_without_permission: run by root, so /proc stands in for the directory");
        let error = write(Path::new("/proc/everprof"), &set(0, 0)).unwrap_err();
        assert!(error.starts_with("cannot create the directory /proc/everprof: "), "{error}");
        return;
    }
    let error = write(&dir, &set(1, 0)).unwrap_err();
    assert!(error.contains("Permission denied") && error.contains("-1.cpu.pb.gz"), "{error}");
    permit(0o755);
    write(&dir, &set(2, 0)).unwrap();
    assert_eq!(list(&*dir, &Query::default()).unwrap().len(), 2);
}

const STEP: &str = "EVERPROF_TEST_STORE_FULL";

/// Not a test of its own: what the test below runs where files cannot grow beyond 4 KiB.
#[test]
fn process_with_little_room() {
    let Some(dir) = std::env::var_os(STEP) else { return };
    let dir = Path::new(&dir);
    write(dir, &set(0, 0)).unwrap();
    let mut large = set(1, 0);
    large.profiles[0].bytes = vec![0; 1 << 20];
    large.profiles[0].format = Format::Pprof;
    let error = write(dir, &large).unwrap_err();
    println!("{error}");
    assert!(error.starts_with("cannot write ") && error.contains("-1.cpu.pb.gz: "), "{error}");
    assert!(
        files(dir).iter().all(|path| path.extension().is_none_or(|end| end != "tmp")),
        "nothing half is left"
    );
    write(dir, &set(2, 0)).unwrap();
    let entries = list(dir, &Query::default()).unwrap();
    assert_eq!(entries.len(), 2, "what was written is still there, and the next period was written");
    assert!(entries.iter().all(|entry| read(&entry.path).is_ok()));
}

fn run_with_little_room(shell: &[&str], script: &str, dir: &Path) -> std::process::Output {
    Command::new(shell[0])
        .args(&shell[1..])
        .arg(script)
        .env(STEP, dir)
        .env("PROGRAM", std::env::current_exe().unwrap())
        .output()
        .unwrap()
}

const RUN: &str = "exec \"$PROGRAM\" --exact failures::process_with_little_room --nocapture";

#[test]
fn a_file_that_may_not_grow() {
    let dir = Folder::new("limit");
    let script = format!("trap '' XFSZ; ulimit -f 8; {RUN}");
    let output = run_with_little_room(&["sh", "-c"], &script, &dir);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("File too large"), "{text}");
}

#[test]
fn a_full_disk() {
    let dir = Folder::new("full");
    let script = format!("mount -t tmpfs -o size=256k none \"{}\" || exit 77; {RUN}", dir.display());
    let mut refusals = String::new();
    // A mount of this process alone, which ends with it: in a user namespace, or as root where those are forbidden.
    for namespace in ["-rm", "-m"] {
        let output = run_with_little_room(&["unshare", namespace, "sh", "-c"], &script, &dir);
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(77) && !text.contains("unshare failed") {
            return assert!(output.status.success() && text.contains("No space left on device"), "{text}");
        }
        refusals += &text;
    }
    eprintln!("!!! SKIPPED: a_full_disk, because this machine permits no mount of our own: {refusals}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "nothing is skipped in CI");
}
