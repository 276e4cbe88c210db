//! The two lines, and some work to see in the profile. Leaves a profile set in `./everprof`.

fn main() -> everprof::Result<()> {
    let _profiler = everprof::Profiler::start()?;
    serve_requests();
    Ok(())
}

/// Stands for the program that is to be profiled: half of its time goes into counting primes, by a slow way.
fn serve_requests() {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(2);
    let mut limit = 1_000;
    while std::time::Instant::now() < end {
        std::hint::black_box((count_primes(limit), sort_words(limit)));
        limit = limit % 2_000 + 500;
    }
}

fn count_primes(limit: usize) -> usize {
    (2..limit).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)).count()
}

fn sort_words(count: usize) -> Vec<String> {
    let mut words: Vec<String> = (0..count).map(|i| format!("word {}", i * 7919 % 10_007)).collect();
    words.sort();
    words
}
