//! `forebay doctor`: looks at what a node depends on, as the node would use it, and says what it found.
//!
//! It may run beside a node. It takes no lock, changes nothing of the node's, and removes what it writes: a few small
//! objects in the folder of probes and one small file in the data folder. Each part of it ends within
//! [`limits::DOCTOR_PART_MAX`].

mod disk;
mod redis;
mod store;

use std::future::Future;
use std::time::Duration;

use anyhow::Context as _;
use forebay_log::clock::Clock;
use forebay_log::store::StoreUrl;
use rand::rngs::{OsRng, StdRng};
use rand::{SeedableRng as _, TryRngCore as _};

use crate::config::Config;
use crate::limits;
use crate::report::Report;

/// Looks at everything that a node with these settings depends on, and at Redis if the cluster has one.
///
/// # Errors
/// Nothing that it finds is one: only a system without randomness.
pub async fn run(
    config: &Config,
    redis: Option<::redis::ConnectionInfo>,
    clock: &dyn Clock,
) -> anyhow::Result<Report> {
    let seed = OsRng.try_next_u64().context("the system gives no randomness")?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut report = Report::default();
    disk::files(config, &mut report);
    if config.store != StoreUrl::Memory {
        disk::data_dir(config, &mut report).await;
    }
    store::check(config, clock, &mut rng, &mut report).await;
    if let Some(server) = redis {
        let mut found = Report::default();
        match in_time(redis::check(server, clock, &mut found)).await {
            Some(()) => report.checks.append(&mut found.checks),
            None => report.fail("redis", "gives no answer"),
        }
    }
    Ok(report)
}

/// Waits for a part, but not for ever.
async fn in_time<T>(part: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limits::DOCTOR_PART_MAX, part).await.ok()
}

/// Times of some equal calls.
#[derive(Debug, Default)]
struct Latency(Vec<Duration>);

impl Latency {
    fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    fn describe(&self) -> String {
        let millis = |time: Duration| time.as_secs_f64() * 1000.0;
        let max = self.0.iter().max().copied().unwrap_or_default();
        format!("p50 {:.1} ms, max {:.1} ms", millis(self.median()), millis(max))
    }
}

/// Says how far another's clock is from ours, which was read before and after it.
fn clock_offset(report: &mut Report, name: &'static str, theirs: i64, ours: std::ops::RangeInclusive<i64>) {
    let offset = if theirs < *ours.start() { theirs - ours.start() } else { (theirs - ours.end()).max(0) };
    let seconds = offset as f64 / 1000.0;
    let detail = match offset {
        0 => "agrees with this machine's clock".to_owned(),
        _ => format!(
            "{:.1} s {} this machine's clock",
            seconds.abs(),
            if offset > 0 { "ahead of" } else { "behind" }
        ),
    };
    let far = Duration::from_millis(offset.unsigned_abs());
    if far > limits::DOCTOR_CLOCK_FAIL {
        report.fail(name, format!("{detail}: set the clock, records would be stamped wrong"));
    } else if far > limits::DOCTOR_CLOCK_WARN {
        report.warn(name, format!("{detail}: is the time synchronised?"));
    } else {
        report.ok(name, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    #[test]
    fn a_clock_is_judged_by_how_far_it_is_off() {
        let judged = |theirs: i64| {
            let mut report = Report::default();
            clock_offset(&mut report, "clock", theirs, 100_000..=100_200);
            report.checks[0].status
        };
        assert_eq!([100_000, 100_100, 100_200, 101_000, 99_000].map(judged), [Status::Ok; 5]);
        assert_eq!([90_000, 110_000].map(judged), [Status::Warn; 2]);
        assert_eq!([10_000, 200_000].map(judged), [Status::Fail; 2]);
    }

    #[test]
    fn times_are_told_by_their_middle_and_their_end() {
        let latency = Latency([9, 1, 2, 3, 4].map(Duration::from_millis).to_vec());
        assert_eq!(latency.describe(), "p50 3.0 ms, max 9.0 ms");
    }
}
