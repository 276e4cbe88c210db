//! What was written is listed, merged and told apart from what is damaged.

use std::time::Duration;

use everprof::encode::pprof;
use everprof::export::{Exporter, FileExporter};
use everprof::store::{Directory, Query, Retention, list, merge, read};

use crate::profiles::{content, small};
use crate::support::{Folder, files, set, set_of};

#[test]
fn a_set_is_a_profile_and_its_tags() {
    let dir = Folder::new("layout");
    let mut profile = small();
    profile.time_nanos = 1_763_814_000_123_456_789;
    let mut exporter = FileExporter::new(&*dir, Retention { age: Duration::MAX, ..Retention::default() });
    exporter.export(&set_of(&profile, 7)).unwrap();
    let names: Vec<String> = files(&dir).iter().map(|path| path.display().to_string()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0].starts_with("shop/2025-11-22/20251122T122000.123Z-web-1-"), "{names:?}");
    assert!(names[0].ends_with("-7.cpu.pb.gz") && names[1].ends_with("-7.json"), "{names:?}");

    let entries = list(&*dir, &Query::default()).unwrap();
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!(entry.path, dir.join(&names[0]));
    assert_eq!((entry.kind.as_str(), entry.time_nanos), ("cpu", 1_763_814_000_123_456_789));
    assert_eq!(entry.duration_nanos, 60_000_000_000);
    assert_eq!(entry.tags["team"], "a=b; \"c\" \\ ü", "hard to escape");
    assert_eq!(entry.bytes, std::fs::metadata(&entry.path).unwrap().len());
    assert_eq!(content(&read(&entry.path).unwrap()), content(&profile));
}

#[test]
fn a_query_asks_for_kind_time_and_tags() {
    let dir = Folder::new("query");
    let mut directory = Directory::new(&*dir, Retention::default());
    for (sequence, age_s, version) in [(0, 3600, "1.0"), (1, 1800, "1.0"), (2, 600, "1.1")] {
        let mut set = set(sequence, age_s);
        set.tags.insert("version".into(), version.into());
        directory.write(&set).unwrap();
    }
    let now = crate::support::now_nanos();
    let ago = |seconds: i64| now - seconds * 1_000_000_000;
    let count = |query: Query| list(&*dir, &query).unwrap().len();
    assert_eq!(count(Query::default()), 3);
    assert_eq!(count(Query::default().kind("cpu").tag("service", "shop")), 3);
    assert_eq!(count(Query::default().kind("heap")), 0);
    assert_eq!(count(Query::default().tag("version", "1.0")), 2);
    assert_eq!(count(Query::default().tag("version", "1.0").tag("host", "other")), 0);
    assert_eq!(count(Query::default().from_nanos(ago(1770))), 2, "one that is under way at the time counts");
    assert_eq!(count(Query::default().from_nanos(ago(1730))), 1);
    assert_eq!(count(Query::default().to_nanos(ago(1799))), 2);
    assert_eq!(count(Query::default().from_nanos(ago(2000)).to_nanos(ago(1000)).tag("version", "1.0")), 1);
    let order: Vec<i64> =
        list(&*dir, &Query::default()).unwrap().iter().map(|entry| entry.time_nanos).collect();
    assert!(order.is_sorted(), "oldest first");
}

#[test]
fn profiles_that_somebody_put_there_are_found_at_any_depth() {
    let dir = Folder::new("foreign");
    let folder = dir.join("a/b/c");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("by hand.cpu.pb.gz"), pprof::encode(&small())).unwrap();
    std::fs::write(folder.join("notes.txt"), "not a profile").unwrap();
    let entries = list(&*dir, &Query::default().tag("version", "1.0")).unwrap();
    assert_eq!(entries.len(), 1, "its tags are read from its comments");
    assert_eq!(entries[0].time_nanos, 1_763_814_000_123_456_789);
}

#[test]
fn a_damaged_profile_is_left_out_and_named() {
    let dir = Folder::new("damaged");
    let mut directory = Directory::new(&*dir, Retention::default());
    for sequence in 0..5 {
        directory.write(&set(sequence, 100 - sequence as i64)).unwrap();
    }
    let entries = list(&*dir, &Query::default()).unwrap();
    let whole = std::fs::read(&entries[1].path).unwrap();
    std::fs::write(&entries[1].path, &whole[..whole.len() / 2]).unwrap();
    std::fs::write(&entries[2].path, b"").unwrap();
    std::fs::remove_file(&entries[4].path).unwrap();
    let merged = merge(&entries).unwrap();
    assert_eq!(merged.count, 2);
    assert_eq!(merged.profile.totals(), small().totals().iter().map(|total| total * 2).collect::<Vec<_>>());
    assert_eq!(merged.profile.duration_nanos, 120_000_000_000);
    let reasons: Vec<String> = merged.skipped.iter().map(|skipped| skipped.reason.to_string()).collect();
    let name = |place: usize| entries[place].path.display().to_string();
    assert_eq!(merged.skipped.len(), 3);
    assert!(
        reasons[0].starts_with(&format!("{} is damaged: the gzip file is damaged: ", name(1))),
        "{reasons:?}"
    );
    assert_eq!(
        reasons[1],
        format!("{} is damaged: the file is empty: a profile has at least a string table", name(2))
    );
    assert!(reasons[2].starts_with(&format!("cannot read {}: ", name(4))), "{reasons:?}");

    let error = merge(&entries[1..3]).unwrap_err().to_string();
    assert!(error.starts_with("none of 2 profiles can be read, such as: "), "{error}");
    assert_eq!(merge([]).unwrap_err().to_string(), "there are no profiles to merge");
}

#[test]
fn a_damaged_description_costs_nothing_but_time() {
    let dir = Folder::new("description");
    let mut directory = Directory::new(&*dir, Retention::default());
    directory.write(&set(0, 10)).unwrap();
    let json =
        files(&dir).into_iter().find(|path| path.extension().is_some_and(|end| end == "json")).unwrap();
    for text in ["", "{\"tags\": 7}", "{\"tags\": {}, \"time_nanos\": \"late\"}"] {
        std::fs::write(dir.join(&json), text).unwrap();
        let entries = list(&*dir, &Query::default().tag("service", "shop")).unwrap();
        assert_eq!(entries.len(), 1, "with {text:?} the tags come from the profile");
    }
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    let dir = Folder::new("no-file");
    let mut directory = Directory::new(&*dir, Retention::default());
    directory.write(&set(0, 10)).unwrap();
    let folder = dir.join(files(&dir)[0].parent().unwrap());
    let pipe = |name: &str| {
        let made = std::process::Command::new("mkfifo").arg(folder.join(name)).status().unwrap();
        assert!(made.success());
    };
    pipe("pipe.cpu.pb.gz");
    pipe("20251122T122000.123Z-web-1-7.json");
    std::fs::write(folder.join("20251122T122000.123Z-web-1-7.cpu.pb.gz"), pprof::encode(&small())).unwrap();
    std::fs::create_dir(folder.join("folder.cpu.pb.gz")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.join("zero.cpu.pb.gz")).unwrap();
    let entries = list(&*dir, &Query::default()).unwrap();
    assert_eq!(entries.len(), 2, "{entries:?}");
    for (name, reason) in [
        ("pipe", "it is a pipe or a device, not a file"),
        ("zero", "it is a pipe or a device, not a file"),
        ("folder", "is a directory"),
    ] {
        let error = read(folder.join(format!("{name}.cpu.pb.gz"))).unwrap_err();
        assert_eq!(error.kind(), everprof::ErrorKind::Storage);
        let text = error.to_string();
        assert!(text.starts_with("cannot read ") && text.ends_with(reason), "{text}");
    }
    let sparse = std::fs::File::create(folder.join("sparse.cpu.pb.gz")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    let error = read(folder.join("sparse.cpu.pb.gz")).unwrap_err().to_string();
    assert!(error.ends_with("it has more than 268435456 bytes"), "{error}");
}

#[test]
fn ten_thousand_profiles_are_listed_without_opening_one() {
    let dir = Folder::new("many");
    let mut directory = Directory::new(&*dir, Retention::default());
    directory.write(&set(0, 0)).unwrap();
    let written = files(&dir);
    let folder = dir.join(written[0].parent().unwrap());
    let json = std::fs::read_to_string(dir.join(&written[1])).unwrap();
    for sequence in 1..10_000 {
        let stem = format!("20251122T122000.123Z-web-1-2-{sequence}");
        // No profile at all: a listing that opened it would find no tags.
        std::fs::write(folder.join(format!("{stem}.cpu.pb.gz")), b"").unwrap();
        std::fs::write(folder.join(format!("{stem}.json")), &json).unwrap();
    }
    let start = std::time::Instant::now();
    let entries = list(&*dir, &Query::default().tag("service", "shop")).unwrap();
    eprintln!("10,000 profiles listed in {:?}", start.elapsed());
    assert_eq!(entries.len(), 10_000);
}
