//! The spool in one process: what is kept, in which order it comes back, and what becomes of it when things go wrong.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::encode::{Encoded, Format, ProfileId};

const SECOND: i64 = 1_000_000_000;

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("everprof-spool-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Self(dir)
    }

    fn spool(&self, most: u64, is_once: bool) -> Spool {
        let age = Duration::from_secs(3600);
        let terms = Terms { dir: self.0.clone(), most, age, is_once, service: "shop".into() };
        Spool::new(&terms, "post+http://h", None)
    }

    /// Every file below, but locks.
    fn files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type().unwrap().is_dir() {
                    true => folders.push(entry.path()),
                    false if is_set(&entry.file_name().to_string_lossy()) => found.push(entry.path()),
                    false => {}
                }
            }
        }
        found.sort();
        found
    }
}

/// Neither a lock nor what names are hashed with.
fn is_set(name: &str) -> bool {
    name != "lock" && !name.starts_with("salt-")
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A set of now, so many seconds later.
fn set(sequence: u64, bytes: usize) -> Set {
    let time_nanos = UNIX_EPOCH.elapsed().unwrap().as_nanos() as i64 + sequence as i64 * SECOND;
    let kind = crate::options::Kinds::default().iter().next().unwrap();
    let (format, id) = (Format::Pprof, ProfileId::new());
    let bytes = vec![7; bytes];
    let profile = Encoded { kind, format, bytes, time_nanos, duration_nanos: SECOND, labels: Vec::new(), id };
    let tags = [("service".to_string(), "shop".to_string())].into();
    Set { tags, sequence, time_nanos, duration_nanos: SECOND, profiles: vec![profile], ..Set::default() }
}

/// All that is there, as it comes.
fn drain(spool: &mut Spool) -> Vec<Set> {
    let mut sets = Vec::new();
    while let Some((key, set)) = spool.take().unwrap() {
        spool.done(key);
        sets.push(set);
    }
    sets
}

fn sequences(sets: &[Set]) -> Vec<u64> {
    sets.iter().map(|set| set.sequence).collect()
}

#[test]
fn what_is_kept_comes_back_whole_the_newest_first() {
    for is_once in [false, true] {
        let place = Place::new("order");
        let mut spool = place.spool(1 << 20, is_once);
        assert!(!place.0.exists(), "nothing is written before there is something");
        let sets: Vec<Set> = (0..5).map(|n| set(n, 100)).collect();
        for n in [2, 0, 4, 1, 3] {
            spool.keep(&sets[n]).unwrap();
        }
        assert_eq!(spool.size(), (5, 5 * LEAST_BYTES));
        // Tried in vain, whole and in part.
        let (key, found) = spool.take().unwrap().unwrap();
        spool.put_back(key, &found, true).unwrap();
        let (key, found) = spool.take().unwrap().unwrap();
        let rest = Set { profiles: set(4, 1).profiles, ..found };
        spool.put_back(key, &rest, false).unwrap();
        assert_eq!(spool.size().0, 5);
        let mut found = drain(&mut spool);
        assert_eq!(found.remove(0), rest);
        let mut expected = sets[..4].to_vec();
        expected.reverse();
        assert_eq!(found, expected);
        assert_eq!((spool.size(), spool.losses()), ((0, 0), Losses::default()));
        assert!(place.files().is_empty());
        let folder = spool.parent.clone().unwrap();
        drop(spool);
        assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    }
}

#[test]
fn the_oldest_gives_way_and_what_is_too_large_is_refused() {
    let place = Place::new("room");
    let mut spool = place.spool(64 << 10, true);
    for n in 0..20 {
        spool.keep(&set(n, 20_000)).unwrap();
        assert!(spool.size().1 <= 64 << 10);
    }
    assert!(spool.keep(&set(20, 70_000)).is_err());
    assert_eq!(spool.losses(), Losses { evicted: 17, ..Losses::default() });
    assert_eq!(place.files().len(), 3);
    assert_eq!(sequences(&drain(&mut spool)), [19, 18, 17]);
}

/// A full spool: what is left of a set takes that set's room, and nobody else's.
#[test]
fn the_rest_of_a_set_costs_no_other() {
    for is_once in [false, true] {
        let place = Place::new("rest");
        let mut spool = place.spool(4 * LEAST_BYTES, is_once);
        (0..4).for_each(|n| spool.keep(&set(n, 10)).unwrap());
        let (key, found) = spool.take().unwrap().unwrap();
        let rest = Set { profiles: set(3, 1).profiles, ..found };
        spool.put_back(key, &rest, false).unwrap();
        assert_eq!((spool.size(), spool.losses()), ((4, 4 * LEAST_BYTES), Losses::default()));
        assert_eq!(place.files().len(), 4);
        // It is the only one.
        (0..3).for_each(|_| spool.evict(spool.bytes - 1));
        spool.losses();
        let (key, found) = spool.take().unwrap().unwrap();
        let rest = Set { profiles: set(3, 20_000).profiles, ..found };
        spool.put_back(key, &rest, false).unwrap();
        assert_eq!((spool.size().0, spool.losses(), place.files().len()), (1, Losses::default(), 1));
        assert_eq!(drain(&mut spool), [rest]);
    }
}

#[test]
fn what_cannot_be_put_back_is_counted_once() {
    for (is_once, is_whole, first) in
        [(false, false), (true, false), (true, true)].into_iter().flat_map(|(a, b)| [(a, b, 0), (a, b, 1)])
    {
        let place = Place::new("back");
        let mut spool = place.spool(1 << 20, is_once);
        // With another one, or alone.
        (first..2).for_each(|n| spool.keep(&set(n, 10)).unwrap());
        let (key, found) = spool.take().unwrap().unwrap();
        let rest = Set { profiles: set(1, 1).profiles, ..found };
        // Folders in the places of what would be written.
        let folder = spool.path(key, WAITS).unwrap();
        let target = if is_whole { key } else { Key::of(&rest) };
        let blocks = folder.with_file_name(target.name(WAITS));
        fs::create_dir(&blocks).unwrap();
        assert!(spool.put_back(key, &rest, is_whole).is_err());
        fs::remove_dir(&blocks).unwrap();
        let (mut left, lost) = if is_once { (vec![0], 1) } else { (vec![1, 0], 0) };
        left.retain(|n| *n >= first);
        assert_eq!(spool.size(), (left.len() as u64, left.len() as u64 * LEAST_BYTES));
        let losses = spool.losses();
        assert_eq!((losses.evicted + losses.unreadable, losses.unknown, losses.expired), (lost, 0, 0));
        assert_eq!(place.files().len(), left.len(), "nothing for the next one to count");
        assert_eq!(sequences(&drain(&mut spool)), left);
    }
}

#[test]
fn what_is_too_old_is_given_up() {
    let place = Place::new("age");
    let mut spool = place.spool(1 << 20, true);
    let mut old = set(0, 10);
    old.time_nanos -= 3_590 * SECOND;
    spool.keep(&old).unwrap();
    spool.keep(&set(1, 10)).unwrap();
    // A clock that was ahead, and was put right since.
    spool.keep(&set(1_000_000, 10)).unwrap();
    spool.expire(SystemTime::now() + Duration::from_secs(20));
    assert_eq!(spool.losses(), Losses { expired: 1, ..Losses::default() });
    assert_eq!(sequences(&drain(&mut spool)), [1_000_000, 1]);
}

/// Each byte of one of three files, changed, and each length that it could be cut to.
#[test]
fn a_file_that_changed_is_one_set_that_is_lost() {
    let place = Place::new("changed");
    let mut spool = place.spool(1 << 20, true);
    let sets: Vec<Set> = (0..3).map(|n| set(n, 40)).collect();
    sets.iter().for_each(|set| spool.keep(set).unwrap());
    let middle = place.files()[1].clone();
    let whole = fs::read(&middle).unwrap();
    let damages = (0..whole.len()).flat_map(|at| {
        let mut changed = whole.clone();
        changed[at] ^= 0x41;
        [changed, whole[..at].to_vec()]
    });
    for damage in damages {
        sets.iter().for_each(|set| spool.keep(set).unwrap());
        fs::write(&middle, damage).unwrap();
        assert_eq!(sequences(&drain(&mut spool)), [2, 0]);
        assert_eq!(spool.losses(), Losses { unreadable: 1, ..Losses::default() });
        assert!(place.files().is_empty());
    }
}

#[test]
fn the_dead_are_taken_over_and_the_living_are_not() {
    for is_once in [false, true] {
        let place = Place::new("heirs");
        let (mut first, mut second) = (place.spool(1 << 20, is_once), place.spool(1 << 20, is_once));
        (0..3).for_each(|n| first.keep(&set(n, 10)).unwrap());
        second.keep(&set(7, 10)).unwrap();
        second.adopt().unwrap();
        assert_eq!((first.size().0, second.size().0), (3, 1), "the other one lives");
        // One is at the exporter, one is being written.
        first.take().unwrap().unwrap();
        let part = place.files()[0].with_file_name("00000000000000000001-0000000001-00000001.part");
        fs::write(&part, "x").unwrap();
        drop(first);
        second.adopt().unwrap();
        let (expected, unknown): (&[u64], u64) = if is_once { (&[7, 1, 0], 1) } else { (&[7, 2, 1, 0], 0) };
        assert_eq!(second.losses(), Losses { unknown, ..Losses::default() });
        assert_eq!(sequences(&drain(&mut second)), expected);
        let folders = fs::read_dir(second.parent.as_ref().unwrap()).unwrap().count();
        assert_eq!(folders, 1, "the other one's folder is gone");
    }
}

/// More than there is room for: the oldest of all give way.
#[test]
fn what_is_taken_over_is_bounded() {
    let place = Place::new("crowd");
    for n in 0..4 {
        let mut dead = place.spool(32 << 10, true);
        (0..4).for_each(|m| dead.keep(&set(m * 4 + n, 10)).unwrap());
    }
    let mut heir = place.spool(32 << 10, true);
    heir.adopt().unwrap();
    assert_eq!(heir.losses().evicted, 12);
    assert_eq!(sequences(&drain(&mut heir)), [15, 14, 13, 12]);
}

/// As where there are no descriptors, which would be taken from the other tests as well.
#[test]
fn what_cannot_be_read_for_now_is_not_given_up() {
    let place = Place::new("for-now");
    let mut spool = place.spool(1 << 20, true);
    (0..3).for_each(|n| spool.keep(&set(n, 10)).unwrap());
    let folder = place.files()[0].parent().unwrap().to_path_buf();
    let away = folder.with_extension("away");
    fs::rename(&folder, &away).unwrap();
    std::os::unix::fs::symlink(&folder, &folder).unwrap();
    assert!(spool.take().is_err());
    assert_eq!((spool.size().0, spool.losses()), (3, Losses::default()));
    fs::remove_file(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    assert_eq!(sequences(&drain(&mut spool)), [2, 1, 0]);
    for (code, expected) in [
        (libc::EMFILE, false),
        (libc::ENFILE, false),
        (libc::ENOMEM, false),
        (libc::ESTALE, false),
        (libc::EIO, true),
    ] {
        assert_eq!(is_lost(&io::Error::from_raw_os_error(code)), expected, "{code}");
    }
}

#[test]
fn nobody_else_may_read_and_names_tell_nothing() {
    let place = Place::new("modes");
    let mut spool = place.spool(1 << 20, true);
    spool.keep(&set(0, 10)).unwrap();
    let file = place.files().remove(0);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    for folder in file.ancestors().skip(1).take(3) {
        assert_eq!(fs::metadata(folder).unwrap().mode() & 0o777, 0o700, "{}", folder.display());
    }
    let name = file.strip_prefix(&place.0).unwrap().display().to_string();
    assert!(!name.contains("shop") && !name.contains("http"), "{name}");
    let key = |words: [&str; 2]| salt::name(&place.0, &words.map(str::to_string), false).unwrap();
    assert_ne!(key(["a", "bc"]), key(["ab", "c"]));
}

#[test]
fn what_others_put_there_is_left_alone() {
    let place = Place::new("others");
    let mut spool = place.spool(1 << 20, true);
    spool.keep(&set(0, 10)).unwrap();
    let folder = place.files()[0].parent().unwrap().to_path_buf();
    drop(spool);
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    fs::create_dir(folder.with_file_name("a folder")).unwrap();
    fs::write(folder.with_file_name("a file"), "").unwrap();
    std::os::unix::fs::symlink("/nowhere", folder.with_file_name("1-link")).unwrap();
    // A link in the place of a set is not followed.
    let link = folder.join("00000000000000000001-0000000001-00000001.set");
    std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
    // Folders that others may write to are not ours to send from.
    let open = folder.with_file_name("1-open");
    fs::create_dir(&open).unwrap();
    fs::write(open.join("lock"), "").unwrap();
    fs::write(open.join("00000000000000000002-0000000001-00000001.set"), "").unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let mut heir = place.spool(1 << 20, true);
    heir.adopt().unwrap();
    assert_eq!(sequences(&drain(&mut heir)), [0]);
    assert!(folder.join("notes.txt").exists() && open.join("lock").exists());
    assert!(fs::symlink_metadata(&link).is_err() && Path::new("/etc/passwd").exists());
    assert_eq!(heir.losses(), Losses::default());
}

#[test]
fn where_others_may_write_nothing_waits() {
    let place = Place::new("open");
    let mut first = place.spool(1 << 20, true);
    first.keep(&set(0, 10)).unwrap();
    let inner = first.parent.clone().unwrap();
    drop(first);
    let open = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let is_refused = |expected: bool| {
        let mut spool = place.spool(1 << 20, true);
        spool.adopt().unwrap();
        assert_eq!(spool.size().0, u64::from(!expected), "what the dead have left");
        match spool.keep(&set(1, 10)) {
            Ok(()) => assert!(!expected),
            Err(error) => assert!(expected && error.kind() == io::ErrorKind::PermissionDenied, "{error}"),
        }
        // For the next one, what the first has left.
        while let Some((key, set)) = spool.take().unwrap() {
            match set.sequence {
                0 => return spool.put_back(key, &set, true).unwrap(),
                _ => spool.done(key),
            }
        }
    };
    for (path, mode, expected) in
        [(&place.0, 0o777, true), (&place.0, 0o1777, false), (&place.0, 0o770, false)]
    {
        open(path, mode);
        is_refused(expected);
    }
    open(&place.0, 0o755);
    open(&inner, 0o1777);
    is_refused(true);
    open(&inner, 0o700);
    is_refused(false);
    // A link in its place, as another user may make one before us.
    let elsewhere = place.0.join("elsewhere");
    fs::rename(&inner, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &inner).unwrap();
    is_refused(true);
}

#[test]
fn a_place_that_cannot_be_is_an_error_and_one_that_goes_comes_again() {
    let mut nowhere = Place(PathBuf::from("/dev/null/spool")).spool(1 << 20, true);
    assert!(nowhere.keep(&set(0, 10)).is_err());
    nowhere.adopt().unwrap();
    assert!(nowhere.take().unwrap().is_none());
    let place = Place::new("goes");
    let mut spool = place.spool(1 << 20, true);
    spool.keep(&set(0, 10)).unwrap();
    fs::remove_dir_all(&place.0).unwrap();
    assert!(spool.take().unwrap().is_none());
    assert_eq!(spool.losses().unreadable, 1);
    // The folder is found to be gone, and made anew for the next one.
    assert!(spool.keep(&set(1, 10)).is_err());
    spool.keep(&set(2, 10)).unwrap();
    assert_eq!(sequences(&drain(&mut spool)), [2]);
}

#[test]
fn what_cannot_be_removed_is_not_counted_again() {
    let place = Place::new("stays");
    let mut dead = place.spool(1 << 20, true);
    (0..2).for_each(|n| dead.keep(&set(n, 10)).unwrap());
    let (key, _) = dead.take().unwrap().unwrap();
    // Root may remove each file, but not a folder by that name.
    let claimed = dead.path(key, CLAIMED).unwrap();
    fs::remove_file(&claimed).unwrap();
    fs::create_dir(&claimed).unwrap();
    drop(dead);
    let mut heir = place.spool(1 << 20, true);
    (0..3).for_each(|_| heir.adopt().unwrap());
    assert_eq!((heir.size().0, heir.losses()), (1, Losses::default()));
    fs::remove_dir(&claimed).unwrap();
    fs::write(&claimed, "").unwrap();
    (0..3).for_each(|_| heir.adopt().unwrap());
    assert_eq!(heir.losses(), Losses { unknown: 1, ..Losses::default() });
}

/// Of two places, the same destination has names that tell nothing of each other; in one place it has one name.
#[test]
fn what_a_folder_is_for_cannot_be_tried_out() {
    let (place, other) = (Place::new("salt"), Place::new("salt-other"));
    let name_in = |place: &Place| {
        let mut spool = place.spool(1 << 20, true);
        spool.keep(&set(0, 10)).unwrap();
        let name = spool.parent.as_ref().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        drop(drain(&mut spool));
        name
    };
    let name = name_in(&place);
    assert!(name.len() == 32 && name == name_in(&place));
    assert_ne!(name, name_in(&other));
    let salts: Vec<_> = fs::read_dir(&place.0)
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("salt-"))
        .collect();
    assert_eq!(salts.len(), 1, "{salts:?}");
    let path = salts[0].path();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    // One that others may read, or that is a link, is not used, nor written over.
    let before = fs::read(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = place.spool(1 << 20, true).keep(&set(1, 10)).unwrap_err();
    assert_eq!((error.kind(), fs::read(&path).unwrap()), (io::ErrorKind::PermissionDenied, before));
    fs::rename(&path, place.0.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(place.0.join("elsewhere"), &path).unwrap();
    assert!(place.spool(1 << 20, true).keep(&set(1, 10)).is_err());
}

/// Many begin at once, each in a place that has no salt yet: all have the same.
#[test]
fn who_begins_at_the_same_time_finds_the_same_folder() {
    for round in 0..20 {
        let place = Place::new(&format!("salt-race-{round}"));
        let begin = std::sync::Barrier::new(8);
        let names: Vec<_> = std::thread::scope(|scope| {
            let work = || {
                let mut spool = place.spool(1 << 20, true);
                begin.wait();
                spool.parent(true).unwrap()
            };
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(names[0].is_some() && names.iter().all(|name| *name == names[0]), "{names:?}");
        assert_eq!(fs::read_dir(&place.0).unwrap().count(), 1, "and nothing else is left");
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    let key = Key { time: u64::MAX, sequence: 12_345_678_901, random: 0xfedc_ba98 };
    assert_eq!(Key::parse(&key.name(WAITS)), Some((key, WAITS)));
    for wrong in ["", ".set", "1-2-3.set", "a.b", "lock", "00000000000000000001-0000000001-000000001.set"] {
        assert_eq!(Key::parse(wrong), None, "{wrong}");
    }
}
