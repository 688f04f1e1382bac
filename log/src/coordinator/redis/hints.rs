//! The connection on which hints arrive. It reconnects for ever; what is published meanwhile is lost.

use std::time::Duration;

use futures::StreamExt as _;
use redis::aio::{PubSubSink, PubSubStream};
use redis::{Client, ErrorKind, Msg, RedisError, RedisResult, Value};
use tokio::sync::broadcast;

use super::connection::coordinator_error;
use crate::coordinator::{CoordinatorError, Hint};
use crate::limits::{REDIS_BACKOFF_MAX, REDIS_BACKOFF_MIN, REDIS_CALL_MAX, REDIS_PING_INTERVAL};

/// Subscribed, so far without a gap.
pub(super) struct Subscription {
    sink: PubSubSink,
    messages: PubSubStream,
}

/// Subscribes to a channel.
pub(super) async fn subscribe(client: &Client, channel: &str) -> Result<Subscription, CoordinatorError> {
    let subscribing = async {
        let mut connection = client.get_async_pubsub().await?;
        connection.subscribe(channel).await?;
        let (sink, messages) = connection.split();
        Ok(Subscription { sink, messages })
    };
    in_time(subscribing).await.map_err(coordinator_error)
}

/// Passes hints on for as long as the task lives.
pub(super) async fn pass_on(
    client: Client,
    channel: String,
    first: Option<Subscription>,
    hints: broadcast::Sender<Hint>,
) {
    let mut subscribed = first;
    loop {
        let subscription = match subscribed.take() {
            Some(subscription) => subscription,
            None => subscribe_at_last(&client, &channel).await,
        };
        let error = forward(subscription, &hints).await;
        tracing::warn!(%error, "hints of other nodes do not arrive; trying again");
    }
}

/// Subscribes, again and again until it is done.
async fn subscribe_at_last(client: &Client, channel: &str) -> Subscription {
    let mut pause = REDIS_BACKOFF_MIN;
    loop {
        tokio::time::sleep(pause).await;
        pause = Duration::min(2 * pause, REDIS_BACKOFF_MAX);
        if let Ok(subscription) = subscribe(client, channel).await {
            tracing::info!("hints of other nodes arrive from now on");
            return subscription;
        }
    }
}

/// Passes hints on until the connection ends or does not answer.
async fn forward(subscription: Subscription, hints: &broadcast::Sender<Hint>) -> RedisError {
    let Subscription { mut sink, mut messages } = subscription;
    loop {
        match tokio::time::timeout(REDIS_PING_INTERVAL, messages.next()).await {
            Ok(Some(message)) => {
                if let Some(hint) = hint_in(&message) {
                    // Nobody needs to listen.
                    let _ = hints.send(hint);
                }
            }
            Ok(None) => return closed(),
            Err(_) => {
                if let Err(error) = in_time(sink.ping::<Value>()).await {
                    return error;
                }
            }
        }
    }
}

/// Reads a hint. Others are of a later version, or not ours.
fn hint_in(message: &Msg) -> Option<Hint> {
    std::str::from_utf8(message.get_payload_bytes()).ok()?.parse().ok()
}

async fn in_time<T>(call: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    match tokio::time::timeout(REDIS_CALL_MAX, call).await {
        Ok(answer) => answer,
        Err(_) => Err((ErrorKind::Io, "no answer in time").into()),
    }
}

fn closed() -> RedisError {
    (ErrorKind::Io, "connection closed").into()
}
