//! Known bytes, and what profiles tell of them.

use std::hint::black_box;

use everprof::profile::Kind;

use super::c::{Library, compile};
use super::{common, is_about, profiles, start, sums, total};

const SOURCE: &str = include_str!("sites.c");
/// Bytes between two samples, on the average.
const INTERVAL: f64 = 65_536.0;
const SITES: usize = 50;

type Allocate = extern "C" fn(i32, usize, usize, usize);
type Release = extern "C" fn(i32);
type Block = *mut libc::c_void;

/// What a site does: sizes from 8 bytes to 64 MiB, each with some hundred samples to be expected, or as many as are exact.
fn plan(site: usize) -> (usize, usize) {
    let size = (8.0 * (64.0 * 1024.0 * 1024.0 / 8.0_f64).powf(site as f64 / 49.0)).round() as usize;
    let chance = 1.0 - (-(size as f64) / INTERVAL).exp();
    (size, ((300.0 / chance) as usize).clamp(20, 3_000_000))
}

/// Every site within 3 sigma, the total within 1 %; what is kept likewise, before and after half of the sites free it.
pub(super) fn sites_of_c() {
    let dir = common::directory("malloc-sites");
    let library = Library::open(&compile(&dir, "sites", SOURCE, &[]), libc::RTLD_NOW);
    // SAFETY: the functions have these types.
    let allocate: Allocate = unsafe { library.find("allocate") };
    // SAFETY: as above.
    let release: Release = unsafe { library.find("release") };
    let profiler = start(&dir, 65_536, &[]);
    everprof_probe::heap::seed(11);
    for site in 0..SITES {
        let (size, count) = plan(site);
        allocate(site as i32, size, count, count / 2);
        if site % 2 == 1 {
            common::flush(&profiler);
        }
    }
    assert_eq!(profiler.stats().alloc_lost, 0);
    assert_eq!(profiler.stats().alloc_sources, "c");
    for site in 25..SITES {
        release(site as i32);
    }
    common::flush(&profiler);
    let heaps = profiles(&dir, Kind::Heap);
    let [.., full, half] = &heaps[..] else { unreachable!() };
    let mut bytes = [0.0; 4];
    for site in 0..SITES {
        let name = format!("s{site:02}");
        let (size, count) = plan(site);
        let chance = 1.0 - (-(size as f64) / INTERVAL).exp();
        let check = |what: &str, told: i64, count: usize| {
            let sigma = (count as f64 * (1.0 - chance) / chance).sqrt();
            let off = told as f64 - count as f64;
            assert!(off.abs() <= 3.0 * sigma + 1.0, "{name} {what}: {told} of {count}, sigma {sigma:.1}");
        };
        let told = total(&dir, Kind::Alloc, &name);
        check("allocated", told[0], count);
        let lives = sums(full, &name);
        check("live", lives[2], count / 2);
        let left = sums(half, &name);
        let expected = if site < 25 { lives[2] } else { 0 };
        assert_eq!(left[2], expected, "{name} after half of the sites were released");
        let more = [told[1] as f64, (size * count) as f64, lives[3] as f64, (size * (count / 2)) as f64];
        bytes.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    println!("allocated {:.5} of the truth, live {:.5}", bytes[0] / bytes[1], bytes[2] / bytes[3]);
    assert!((bytes[0] / bytes[1] - 1.0).abs() < 0.01, "{bytes:?}");
    assert!((bytes[2] / bytes[3] - 1.0).abs() < 0.01, "{bytes:?}");
    common::remove(&dir);
}

/// Blocks that the C library allocates for itself or gives away, and calls by addresses in data.
pub(super) fn other_ways() {
    let dir = common::directory("malloc-ways");
    let library = Library::open(&compile(&dir, "sites", SOURCE, &[]), libc::RTLD_NOW);
    // SAFETY: the functions have these types.
    let [by_strdup, by_table] =
        ["by_strdup", "by_table"].map(|name| unsafe { library.find::<extern "C" fn(usize) -> Block>(name) });
    // SAFETY: as above.
    let free_by_table: extern "C" fn(Block) = unsafe { library.find("free_by_table") };
    let profiler = start(&dir, 16_384, &[]);
    everprof_probe::heap::seed(12);
    let blocks: Vec<Block> = (0..1500).flat_map(|_| [by_strdup(3000), by_table(5000)]).collect();
    common::flush(&profiler);
    for (name, size) in [("by_strdup", 3000), ("by_table", 5000)] {
        let told = total(&dir, Kind::Heap, name);
        assert!(is_about(told[1], 1500, size, 16_384.0) && told[3] == told[1], "{name}: {told:?}");
    }
    // By another way than they came: one that is hooked as well.
    blocks.into_iter().for_each(|block| free_by_table(block));
    common::flush(&profiler);
    let last = profiles(&dir, Kind::Heap).pop().unwrap();
    for name in ["by_strdup", "by_table"] {
        assert_eq!(sums(&last, name), [0; 4], "{name}");
    }
    common::remove(&dir);
}

#[inline(never)]
fn rust_allocates(count: usize) -> Vec<Vec<u8>> {
    let mut kept = Vec::with_capacity(count);
    (0..count).for_each(|_| kept.push(black_box(vec![1_u8; 5000])));
    black_box(kept)
}

/// Not a line of code, and each allocation once.
pub(super) fn rust() {
    let dir = common::directory("malloc-rust");
    let profiler = start(&dir, 16_384, &[]);
    everprof_probe::heap::seed(13);
    let kept = rust_allocates(2000);
    common::flush(&profiler);
    let told = total(&dir, Kind::Heap, "rust_allocates");
    // The list itself is one more, of 48 kB.
    assert!(is_about(told[1] - 48_000, 2000, 5000, 16_384.0) && told[3] == told[1], "{told:?}");
    drop(kept);
    common::flush(&profiler);
    assert_eq!(sums(&profiles(&dir, Kind::Heap).pop().unwrap(), "rust_allocates"), [0; 4]);
    let stats = profiler.stats();
    assert!(stats.alloc_slots > 10 && stats.alloc_slots_refused == 0, "{stats:?}");
    common::stop(profiler);
    common::remove(&dir);
}

#[inline(never)]
fn maps(count: usize, bytes: usize) -> Vec<Block> {
    let map = |_| {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: at an address of the kernel's choice.
        black_box(unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) })
    };
    (0..count).map(map).collect()
}

pub(super) fn mappings() {
    for (option, objects) in [("off", 0), ("on", 500)] {
        let dir = common::directory("malloc-mappings");
        let profiler = start(&dir, 65_536, &[("mmap", option)]);
        everprof_probe::heap::seed(14);
        let mapped = maps(500, 200_000);
        common::flush(&profiler);
        let told = total(&dir, Kind::Heap, "maps");
        // Beside the list of the mappings.
        assert!(is_about(told[1], objects, 200_000, 65_536.0), "{option}: {told:?}");
        for mapping in mapped {
            // SAFETY: the mapping is this test's.
            assert_eq!(unsafe { libc::munmap(mapping, 200_000) }, 0);
        }
        common::flush(&profiler);
        let last = profiles(&dir, Kind::Heap).pop();
        assert!(last.is_none_or(|last| sums(&last, "maps")[2..] == [0; 2]), "{option}");
        common::stop(profiler);
        common::remove(&dir);
    }
}
