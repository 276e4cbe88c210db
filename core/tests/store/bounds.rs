//! The directory keeps within its bounds, and what is not ours stays.

use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use everprof::store::{Directory, Query, Retention, list, prune};

use crate::support::{Folder, bytes, files, set};

const DAY_S: i64 = 86_400;
const ENOUGH: u64 = u64::MAX;

#[test]
fn what_is_too_old_goes() {
    let dir = Folder::new("age");
    let mut directory = Directory::new(&*dir, Retention { age: Duration::MAX, bytes: ENOUGH });
    for (sequence, days) in [40, 31, 29, 1].into_iter().enumerate() {
        directory.write(&set(sequence as u64, days * DAY_S)).unwrap();
    }
    assert_eq!(files(&dir).len(), 8);
    let pruned = prune(&dir, Retention::default()).unwrap();
    assert_eq!((pruned.sets, pruned.failed), (2, 0));
    assert_eq!(list(&*dir, &Query::default()).unwrap().len(), 2);
    assert_eq!(
        std::fs::read_dir(dir.join("shop")).unwrap().count(),
        2,
        "the folders of their days are gone too"
    );
    assert_eq!(pruned.remaining_bytes, bytes(&dir));
}

#[test]
fn the_oldest_go_first_when_room_is_short() {
    let dir = Folder::new("bytes");
    let unbounded = Retention { age: Duration::MAX, bytes: ENOUGH };
    let mut directory = Directory::new(&*dir, unbounded);
    for sequence in 0..20 {
        directory.write(&set(sequence, 2000 - sequence as i64)).unwrap();
    }
    let all = bytes(&dir);
    let newest = list(&*dir, &Query::default()).unwrap().split_off(12);
    let pruned = prune(&dir, Retention { bytes: all / 2, ..unbounded }).unwrap();
    let left = list(&*dir, &Query::default()).unwrap();
    assert!(bytes(&dir) <= all / 2 && left.len() >= 8, "{} of 20 left", left.len());
    assert_eq!(left[left.len() - newest.len()..], newest[..], "the newest stay");
    assert_eq!(pruned.sets as usize, 20 - left.len());
    assert_eq!(prune(&dir, Retention { bytes: all / 2, ..unbounded }).unwrap().sets, 0, "and that was it");
}

#[test]
fn a_writer_keeps_the_directory_within_its_bounds() {
    let dir = Folder::new("writer");
    let retention = Retention { age: Duration::MAX, bytes: 20_000 };
    let mut directory = Directory::new(&*dir, retention);
    for sequence in 0..60 {
        directory.write(&set(sequence, 1000 - sequence as i64)).unwrap();
        assert!(bytes(&dir) <= retention.bytes, "after set {sequence}");
    }
    let left = list(&*dir, &Query::default()).unwrap();
    assert!(left.len() > 5, "only {} left", left.len());
}

#[test]
fn a_prune_is_due_when_nobody_has_pruned_lately() {
    let dir = Folder::new("due");
    let one_day = Retention { age: Duration::from_secs(86_400), bytes: ENOUGH };
    let write = |sequence, age_s| Directory::new(&*dir, one_day).write(&set(sequence, age_s)).unwrap();
    let count = || list(&*dir, &Query::default()).unwrap().len();
    write(0, 2 * DAY_S);
    assert_eq!(count(), 0, "the first set of a directory prunes");
    write(1, 2 * DAY_S);
    assert_eq!(count(), 1, "another process just did");
    let mark = std::fs::File::options().write(true).open(dir.join(".pruned")).unwrap();
    mark.set_modified(SystemTime::now() - Duration::from_secs(601)).unwrap();
    write(2, 0);
    assert_eq!(count(), 1, "ten minutes later it is due again");
    write(3, 2 * DAY_S);
    mark.set_modified(SystemTime::now() + Duration::from_secs(3600)).unwrap();
    write(4, 0);
    assert_eq!(count(), 2, "a mark from the future does not hold it up");
}

#[test]
fn what_a_wrong_clock_wrote_does_not_push_out_the_present() {
    let dir = Folder::new("future");
    let unbounded = Retention { age: Duration::MAX, bytes: ENOUGH };
    let mut directory = Directory::new(&*dir, unbounded);
    for sequence in 0..10 {
        directory.write(&set(sequence, -400 * DAY_S - sequence as i64)).unwrap();
    }
    for sequence in 10..20 {
        directory.write(&set(sequence, 1000 - sequence as i64)).unwrap();
    }
    let bytes = bytes(&dir) * 6 / 10;
    prune(&dir, Retention { age: Duration::from_secs(30 * 86_400), bytes }).unwrap();
    let left = list(&*dir, &Query::default()).unwrap();
    let now = crate::support::now_nanos();
    let present = left.iter().filter(|entry| entry.time_nanos < now).count();
    assert_eq!(present, 10, "the ten of today stay");
    assert!((10..15).contains(&left.len()), "{} left: what has room stays", left.len());
}

#[test]
fn what_is_not_ours_stays() {
    let dir = Folder::new("others");
    let outside = Folder::new("others-outside");
    let mut directory = Directory::new(&*dir, Retention { age: Duration::MAX, bytes: ENOUGH });
    directory.write(&set(0, 50 * DAY_S)).unwrap();
    directory.write(&set(1, 50 * DAY_S)).unwrap();
    let ours = files(&dir);
    let day = dir.join(ours[0].parent().unwrap());
    // The same names outside, where links lead; and names much like ours inside.
    for file in &ours {
        std::fs::write(outside.join(file.file_name().unwrap()), "precious").unwrap();
    }
    let linked = dir.join("linked");
    std::fs::create_dir(&linked).unwrap();
    symlink(&*outside, linked.join("2020-01-01")).unwrap();
    symlink(&*outside, dir.join("elsewhere")).unwrap();
    let first = day.join(ours[0].file_name().unwrap());
    std::fs::remove_file(&first).unwrap();
    symlink(outside.join(first.file_name().unwrap()), &first).unwrap();
    std::fs::write(day.join("README"), "precious").unwrap();
    std::fs::write(day.join("backup.cpu.pb.gz"), "precious").unwrap();
    std::fs::write(dir.join(first.file_name().unwrap()), "at the top, where nothing of ours is").unwrap();
    std::fs::create_dir_all(dir.join("empty/2020-01-01")).unwrap();

    let pruned = prune(&dir, Retention { age: Duration::ZERO, bytes: 0 }).unwrap();
    assert_eq!((pruned.sets, pruned.failed), (2, 0), "{pruned:?}");
    assert_eq!(files(&outside).len(), ours.len(), "nothing outside was touched");
    let left: Vec<String> =
        files(&dir).iter().map(|file| file.file_name().unwrap().to_string_lossy().into_owned()).collect();
    assert_eq!(left.len(), 6, "{left:?}");
    assert!(left.contains(&"README".into()) && left.contains(&"backup.cpu.pb.gz".into()));
    assert!(dir.join("empty/2020-01-01").is_dir(), "an empty folder that we did not empty");
}

#[test]
fn what_a_dead_writer_left_goes_and_what_a_living_one_holds_stays() {
    let dir = Folder::new("unfinished");
    Directory::new(&*dir, Retention::default()).write(&set(0, 0)).unwrap();
    let folder = dir.join(files(&dir)[0].parent().unwrap());
    let stem = ".20251122T122000.123Z-web-1-99";
    let create = |name: &str| {
        let path = folder.join(format!("{stem}-{name}.cpu.pb.gz.tmp"));
        (std::fs::File::create(&path).unwrap(), path)
    };
    let (dead, dead_path) = create("1");
    let (living, living_path) = create("2");
    let (_young, young_path) = create("3");
    living.lock().unwrap();
    let earlier = SystemTime::now() - Duration::from_secs(120);
    dead.set_modified(earlier).unwrap();
    living.set_modified(earlier).unwrap();
    drop(dead);
    let pruned = prune(&dir, Retention::default()).unwrap();
    assert_eq!((pruned.unfinished, pruned.sets), (1, 0));
    assert_eq!([dead_path.exists(), living_path.exists(), young_path.exists()], [false, true, true]);
    assert_eq!(list(&*dir, &Query::default()).unwrap().len(), 1, "an unfinished profile is not listed");
}

#[test]
fn a_limit_that_was_lowered_by_far_is_kept_too_and_the_newest_stay() {
    let dir = Folder::new("lowered");
    let unbounded = Retention { age: Duration::MAX, bytes: ENOUGH };
    let mut directory = Directory::new(&*dir, unbounded);
    for sequence in 0..40 {
        // In no order, over several days.
        let age = (sequence * 17 % 40) as i64 * DAY_S / 8 + 100;
        directory.write(&set(sequence, age)).unwrap();
    }
    let all = list(&*dir, &Query::default()).unwrap();
    let limit = bytes(&dir) / 10;
    let pruned = prune(&dir, Retention { bytes: limit, ..unbounded }).unwrap();
    let left = list(&*dir, &Query::default()).unwrap();
    assert!(bytes(&dir) <= limit && left.len() >= 3, "{} left", left.len());
    assert_eq!(left[..], all[all.len() - left.len()..], "the newest stay");
    assert_eq!((pruned.sets as usize, pruned.failed), (all.len() - left.len(), 0));
    assert_eq!(pruned.remaining_bytes, bytes(&dir));
}
