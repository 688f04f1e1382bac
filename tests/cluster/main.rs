//! A cluster of real processes over one bucket and one Redis: what survives, what moves, and what it costs.
//!
//! Tests take turns, for each keeps the machine busy. Times are printed and decide nothing. `CLUSTER_FULL=1` runs the
//! long forms; `CHAOS_MINUTES` and `CHAOS_SEED` say how long chaos lasts and which. With `FOREBAY_TEST_S3_ENDPOINT` (and
//! what `tests/s3` says of it) chaos and the loss of everything happen on that server.

mod bounded;
mod chaos;
mod coordinator;
mod history;
mod load;
mod local;
mod lost;
mod moves;
mod puts;
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

/// The middle and the last of a hundred, and the longest.
fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    format!("p50 {:?}, p99 {:?}, longest {:?} of {}", at(50), at(99), at(100), times.len())
}
