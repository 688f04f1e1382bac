//! What every end-to-end test needs: the real server as a child process, servers that speak S3, Redis, a small HTTP client
//! whose answers check themselves, a parser for Server-Sent Events, and one way to wait.
//!
//! Everything here is black box: it knows the HTTP API and the command line, nothing of the crates behind them.
//! A check that fails panics with the call and its answer, so that tests read as the list of their claims.

mod balancer;
mod client;
mod cluster;
mod links;
mod ports;
mod process;
mod proxy;
pub mod raw;
mod redis;
mod s3_server;
mod seaweed;
mod server;
mod shared_store;
mod sse;
mod subscriber;

use std::future::Future;
use std::time::Duration;

pub use balancer::Balancer;
pub use client::{Answer, Call, Client};
pub use cluster::{Cluster, ClusterOptions, Leadership};
pub use links::{LinkFault, Links};
pub use proxy::CuttingProxy;
pub use redis::Redis;
pub use s3_server::{S3Faults, S3Server};
pub use seaweed::SeaweedFs;
pub use server::{Options, Server, forebay};
pub use shared_store::SharedStore;
pub use sse::{Event, EventParser, EventStream};
pub use subscriber::Subscriber;

/// Longest that any test waits for something that should happen soon. Long, because it decides nothing but when
/// a failure is reported, and machines may be slow: locks of SeaweedFS alone wait in steps of seconds.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Pause between two looks at a condition that cannot be awaited.
const POLL: Duration = Duration::from_millis(5);

/// Polls `look` until it answers, and panics with `what` once patience is over.
pub async fn eventually<T, F>(what: &str, mut look: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Some(value)) => return value,
            Ok(None) => assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}"),
            Err(_) => panic!("waited in vain: {what}: the last look took too long"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Awaits `future`, and panics with `what` once patience is over.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain: {what}"),
    }
}
