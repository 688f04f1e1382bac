//! A cluster of real processes over one bucket and one Redis: what survives, what moves, and what it costs.
//!
//! Tests take turns, for each keeps the machine busy. Times are printed and decide nothing. `CLUSTER_FULL=1` runs the
//! long forms; `CHAOS_MINUTES` and `CHAOS_SEED` say how long chaos lasts and which. What needs no faults of the store
//! happens on a real server: that of `FOREBAY_TEST_S3_ENDPOINT` (and what `tests/s3` says of it), else SeaweedFS.

mod bounded;
mod chaos;
mod coordinator;
mod grown;
mod history;
mod load;
mod local;
mod lost;
mod moves;
mod pulse;
mod puts;
mod redis_lost;
mod rolling;
mod topics;

use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

/// Taken by each test that starts a cluster.
async fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}

/// Whether the long forms are wanted.
fn is_full() -> bool {
    std::env::var_os("CLUSTER_FULL").is_some()
}

/// The longest of the shorter half, of 99 of a hundred, and of all.
fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let Some(longest) = times.last() else { return "none".to_owned() };
    let at = |share: usize| times[(times.len() * share).div_ceil(100) - 1];
    format!("p50 {:?}, p99 {:?}, longest {longest:?} of {}", at(50), at(99), times.len())
}

#[test]
fn a_percentile_is_a_time_that_so_many_did_not_exceed() {
    let first = |count: u64| percentiles((1..=count).rev().map(Duration::from_secs).collect());
    assert_eq!(first(0), "none");
    assert_eq!(first(1), "p50 1s, p99 1s, longest 1s of 1");
    assert_eq!(first(20), "p50 10s, p99 20s, longest 20s of 20");
    assert_eq!(first(200), "p50 100s, p99 198s, longest 200s of 200");
}
