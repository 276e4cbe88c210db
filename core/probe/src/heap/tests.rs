use super::*;
use std::vec::Vec;

/// One test: what the blocks are known by is one for the process.
#[test]
fn blocks_are_found_until_they_are_taken_out() {
    // Where the C library puts blocks of the program's own, none of these lies.
    let address = |n: u64| 0x10_0000 + n * 4096;
    assert!(!may_hold(address(1)));
    let handles: Vec<Handle> = (0..20_000).map(|n| live::insert(address(n)).unwrap()).collect();
    assert_eq!(count_live(), 20_000);
    assert!((0..20_000).all(|n| may_hold(address(n)) && lives(handles[n as usize])));
    assert_eq!(take_out(address(7)), Some(handles[7]));
    assert!(!lives(handles[7]));
    assert_eq!(take_out(address(7)), None);
    put_back(address(7), handles[7]);
    assert!(lives(handles[7]), "nobody took its slot");
    assert_eq!(take_out(address(7)), Some(handles[7]));
    // Nothing is given back, where there is a block in the place that it would have.
    let first = live::insert(16).unwrap();
    assert!(may_hold(0) && take_out(0).is_none() && take_out(1).is_none());
    assert_eq!((take_out(16), count_live()), (Some(first), 19_999));
    let again = live::insert(address(7)).unwrap();
    assert!(again != handles[7] && lives(again) && !lives(handles[7]), "the same place, another block");
    forget();
    assert_eq!(count_live(), 0);
    assert!((0..20_000).all(|n| !may_hold(address(n)) && !lives(handles[n as usize])));
    // So many in one place that there is no room.
    let there = (0..100).filter_map(|n| live::insert(0x4000_0000 + n)).count();
    assert_eq!(there, 16);
    after_fork();
    assert!((0..100).all(|n| !may_hold(0x4000_0000 + n)) && count_live() == 0);
    threads_that_share_the_table_find_their_own();
}

fn threads_that_share_the_table_find_their_own() {
    let threads: Vec<_> = (0..4_u64)
        .map(|thread| {
            std::thread::spawn(move || {
                for round in 0..20_000 {
                    let address = 0x7000_0000 + (round % 64) * 64 + thread * 16;
                    let handle = live::insert(address);
                    assert!(handle.is_none_or(lives));
                    assert_eq!(live::remove(address), handle);
                    assert!(!handle.is_some_and(lives));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(count_live(), 0);
    assert!((0..256).all(|n| !may_hold(0x7000_0000 + n * 16)));
}

/// The mean changes in each chunk, to one that is as often smaller: every allocation is told on the average as it was.
fn across_changes() {
    let means = [10_000, 70_000, 20_000, 5_000];
    let (mut told, mut variance, times) = (0.0, 0.0, 400_000_u32);
    for (number, mean) in (0..times).zip(means.iter().cycle()) {
        if number % 5 == 0 {
            set_interval(*mean);
        }
        if count(2_000)
            && let Some(mean) = pace::cross(Own::of_this_thread())
        {
            let p = 1.0 - (-2_000.0 / mean as f64).exp();
            told += 1.0 / p;
            variance += (1.0 - p) / (p * p);
        }
    }
    let off = told - f64::from(times);
    assert!(off.abs() < 4.0 * f64::sqrt(variance), "{told} of {times}, sigma {}", f64::sqrt(variance));
    set_interval(10_000);
}

#[test]
fn what_is_lost_is_counted_whatever_its_size() {
    take_lost();
    lose(1 << 40, 1 << 50);
    assert_eq!(take_lost(), [1, 1024, (1 << 50) + (1 << 39) + (1 << 30) / 12]);
    lose(300, 100);
    lose(1000, 1000);
    assert_eq!(take_lost(), [2, 1 + 1, 300 + 1583]);
}

#[test]
fn allocations_are_sampled_by_their_bytes() {
    set_interval(10_000);
    seed(1);
    // (bytes, how often)
    for (bytes, times) in [(16, 2_000_000), (1000, 100_000), (70_000, 5_000)] {
        let sampled =
            (0..times).filter(|_| count(bytes) && pace::cross(Own::of_this_thread()) == Some(10_000)).count();
        let p = 1.0 - (-(bytes as f64) / 10_000.0).exp();
        let (expected, sigma) = (f64::from(times) * p, (f64::from(times) * p * (1.0 - p)).sqrt());
        assert!((sampled as f64 - expected).abs() < 4.0 * sigma, "{bytes}: {sampled} for {expected}");
    }
    across_changes();
    set_interval(0);
    // What was due in the chunk at hand comes still.
    let _due = (0..200).filter(|_| count(1000) && pace::cross(Own::of_this_thread()).is_some()).count();
    assert!((0..1_000_000).all(|_| !count(1000) || pace::cross(Own::of_this_thread()).is_none()));
    Own::of_this_thread().leave_out();
    set_interval(10);
    assert!((0..1_000_000).all(|_| !count(1000)));
}
