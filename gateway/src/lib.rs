//! The gateway: Kafka's model of topics, partitions and offsets as REST and Server-Sent Events over the shard log.
//!
//! A produce goes `http` → [`produce`] → the shard's leader in the log; a read goes `http` → [`fetch`] → memory at the
//! tail, or the object that the shard's index names.

pub mod bucket;
pub mod budget;
pub mod cluster;
pub mod config;
pub mod cursor;
pub mod doctor;
pub mod fetch;
pub mod http;
pub mod leading;
pub mod limits;
mod listen;
pub mod node;
pub mod produce;
pub mod report;
pub mod shards;
#[cfg(test)]
mod testing;
pub mod topics;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use anyhow::Context as _;
use forebay_log::clock::SystemClock;
use rand::TryRngCore as _;

use crate::config::Config;
use crate::node::Node;

/// Runs a node until `shutdown` is ready, then stops it gracefully.
///
/// # Errors
/// Whatever keeps the node from serving, or from stopping with an empty journal, in words for the operator.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
    tracing::info!("settings: {}", config.to_string().replace('\n', ", "));
    let taken = || format!("cannot listen on {}; --listen chooses another address", config.listen);
    let bound = listen::Bound::new(config.listen).with_context(taken)?;
    let address = bound.address()?;
    if config.cluster.is_none() {
        // Its clients wait until it is there. Those of one of many go to another.
        bound.listen().with_context(taken)?;
    }
    let seed = rand::rngs::OsRng.try_next_u64().context("the system gives no randomness")?;
    let mut shutdown = pin!(shutdown);
    let node = tokio::select! {
        opened = Node::open(&config, Arc::new(SystemClock), seed) => opened?,
        // It may wait for a store that is slow. Nothing was accepted yet.
        () = &mut shutdown => return Ok(()),
    };
    let listener = bound.into_listener().with_context(taken)?;
    tracing::info!(url = %format!("http://{address}"), store = %config.store, "listening on http://{address}");
    tracing::info!("try: curl -X PUT http://{address}/v1/topics/orders");
    let served = tokio::spawn(listen::serve(listener, Arc::clone(&node)));
    shutdown.await;
    tracing::info!("stopping");
    let began = tokio::time::Instant::now();
    node.begin_stop();
    if config.cluster.is_some() {
        tokio::time::sleep(limits::STOP_NOTICE).await;
        node.close();
    }
    // Requests that are still open after that are cut; what they appended is safe or was never acknowledged.
    let _ = tokio::time::timeout_at(began + limits::STOP_MAX / 2, served).await;
    node.stop(limits::STOP_MAX.saturating_sub(began.elapsed())).await?;
    tracing::info!("stopped");
    Ok(())
}
