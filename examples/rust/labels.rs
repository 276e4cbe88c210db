//! Labels: whose work a sample was. Two tenants share one program, and the profile tells them apart.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use everprof::profile::{LabelValue, Profile};
use everprof::store::{self, Query};
use everprof::{Labels, Profiler, labels};

fn main() -> everprof::Result<()> {
    let profiler = Profiler::builder()
        .dir("target/examples/labels")
        .tag("run", &std::process::id().to_string())
        .start()?;

    // A set is made once, and put in force for a scope.
    let small = Labels::new([("tenant", "small")]);
    let large = Labels::new([("tenant", "large")]);
    for _ in 0..20 {
        small.run(|| work(10));
        large.run(|| work(30));
    }
    // A new thread begins without labels, unless it is to inherit those in force.
    let inherited = large.run(|| labels::inherit(|| work(200)));
    let unlabelled = || work(100);
    std::thread::scope(|scope| {
        scope.spawn(inherited);
        scope.spawn(unlabelled);
    });

    profiler.stop()?;
    let query = Query::default().tag("run", std::process::id().to_string());
    let profile = store::merge(&store::list("target/examples/labels", &query)?)?.profile;
    for (tenant, nanos) in by_tenant(&profile) {
        println!("{tenant:10} {:5} ms of CPU time", nanos / 1_000_000);
    }
    Ok(())
}

/// CPU nanoseconds by the label `tenant`.
fn by_tenant(profile: &Profile) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for sample in profile.samples() {
        let labels = profile.get_labels(sample.labels);
        let tenant = labels.iter().find(|label| label.key == "tenant").map(|label| &label.value);
        let tenant = match tenant {
            Some(LabelValue::Text(tenant)) => tenant.clone(),
            _ => "(none)".to_owned(),
        };
        *sums.entry(tenant).or_default() += sample.values[1];
    }
    sums
}

/// Some milliseconds of work.
fn work(milliseconds: u64) {
    let end = Instant::now() + Duration::from_millis(milliseconds);
    let mut sum = 0u64;
    while Instant::now() < end {
        sum = std::hint::black_box((0..10_000u64).fold(sum, |sum, i| sum.wrapping_mul(31).wrapping_add(i)));
    }
}
