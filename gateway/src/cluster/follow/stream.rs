//! The follower's end.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use forebay_log::model::{LeaderEpoch, ShardId, TopicId, WalSeq};
use forebay_log::shard::StoredObject;
use tokio::sync::{mpsc, watch};

use super::wire::{self, FollowEnd, Frame};
use crate::cluster::call::Call;
use crate::cluster::dial::Dialer;
use crate::cluster::error::PeerError;
use crate::cluster::frame::{FrameBuffer, FrameReader, PeerBody};
use crate::limits;

/// The topics whose batches a follower wants; at most [`limits::FOLLOW_TOPICS_MAX`] count.
pub type Wanted = Arc<BTreeSet<TopicId>>;

/// What a leader says.
#[derive(Debug)]
pub enum Followed {
    /// It has stored this object, the next one of its log.
    Object(Box<StoredObject>),
    /// The shard's manifest has this version now.
    Manifest(u64),
    /// It says nothing more.
    End(FollowEnd),
}

/// A leader's word, as it comes. Dropped, it ends the stream.
#[derive(Debug)]
pub struct FollowStream {
    frames: FrameReader,
}

impl FollowStream {
    pub(in crate::cluster) async fn open(
        dialer: &Dialer,
        address: &str,
        (shard, epoch): (ShardId, LeaderEpoch),
        from: WalSeq,
        wanted: watch::Receiver<Wanted>,
    ) -> Result<Self, PeerError> {
        let (chunks, body) = mpsc::channel(limits::PEER_CHUNKS_MAX);
        tokio::spawn(send_wanted(wanted, chunks));
        let path = Call::Follow(shard, epoch, from).to_string();
        let answer = dialer.call(address, &path, PeerBody::Stream(body)).await?;
        Ok(Self { frames: FrameReader::new(answer.into_body()) })
    }

    /// Waits for the leader's next word.
    ///
    /// # Errors
    /// [`PeerError`]: the stream broke. [`PeerError::Silent`] after [`limits::FOLLOW_SILENCE_MAX`] without a byte.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Result<Followed, PeerError> {
        loop {
            let frame = self.frames.next_within(Some(limits::FOLLOW_SILENCE_MAX)).await?;
            let frame = frame.ok_or(PeerError::Cut)?;
            match wire::decode(&frame)? {
                Frame::Heartbeat => {}
                Frame::Object(object) => return Ok(Followed::Object(object)),
                Frame::Manifest(version) => return Ok(Followed::Manifest(version)),
                Frame::End(end) => return Ok(Followed::End(end)),
            }
        }
    }
}

/// Says which topics are wanted, at once and whenever that changes, until the stream ends.
async fn send_wanted(mut wanted: watch::Receiver<Wanted>, chunks: mpsc::Sender<Bytes>) {
    let mut buffer = FrameBuffer::default();
    loop {
        let topics = Arc::clone(&wanted.borrow_and_update());
        buffer.push(&[wire::encode_wanted(&topics)]);
        for chunk in buffer.take() {
            if chunks.send(chunk).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() {
                // Nobody wants anything else any more; the stream goes on.
                chunks.closed().await;
                return;
            },
            () = chunks.closed() => return,
        }
    }
}
