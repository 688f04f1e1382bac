//! The leader's end: sends what is stored, as the follower takes it.

use std::collections::BTreeSet;

use bytes::Bytes;
use forebay_log::model::{LeaderEpoch, ShardId, TopicId, WalSeq};
use forebay_log::shard::{Fed, Shard};
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::wire::{self, FollowEnd};
use crate::cluster::LocalShards;
use crate::cluster::error::PeerError;
use crate::cluster::frame::{FrameBuffer, FrameReader, PeerBody};
use crate::limits;

/// Serves a follower. Returns the answer's body.
pub(in crate::cluster) fn serve(
    local: &dyn LocalShards,
    (shard, epoch): (ShardId, LeaderEpoch),
    from: WalSeq,
    body: Incoming,
) -> PeerBody {
    let (chunks, answer) = mpsc::channel(limits::PEER_CHUNKS_MAX);
    let leader = local.leader(shard).filter(|leader| leader.epoch() == epoch);
    let manifests = local.manifest_versions(shard);
    let (wanted, frames) = (BTreeSet::new(), FrameReader::new(body));
    let follower = Follower { at: from, wanted, frames, chunks, spoken: Instant::now() };
    tokio::spawn(async move {
        // A follower that is gone needs no answer, and one that says what no follower says gets none.
        let _ = follower.run(leader, manifests).await;
    });
    PeerBody::Stream(answer)
}

/// One node that follows.
#[derive(Debug)]
struct Follower {
    /// What it has not got yet.
    at: WalSeq,
    wanted: BTreeSet<TopicId>,
    frames: FrameReader,
    chunks: mpsc::Sender<Bytes>,
    /// When it was sent something last.
    spoken: Instant,
}

/// What a follower waits for.
enum Event {
    News,
    Wanted(BTreeSet<TopicId>),
    Manifest(u64),
    Silence,
}

/// The follower is gone.
#[derive(Debug)]
struct Gone;

impl From<PeerError> for Gone {
    fn from(_: PeerError) -> Self {
        Self
    }
}

impl Follower {
    async fn run(
        mut self,
        leader: Option<Shard>,
        mut manifests: Option<watch::Receiver<u64>>,
    ) -> Result<(), Gone> {
        let Some(leader) = leader else { return self.end(FollowEnd::NotLeading).await };
        let feed = leader.feed();
        let mut news = feed.news();
        // What it wants comes first, so that no object lacks what its readers wait for.
        self.wanted = next_wanted(&mut self.frames).await?;
        loop {
            news.mark_unchanged();
            match feed.since(self.at) {
                Fed::Objects(objects) => {
                    for object in objects {
                        self.send(wire::encode_object(&object, &self.wanted)).await?;
                        self.at = object.seq().plus(1);
                    }
                    continue;
                }
                Fed::Behind => return self.end(FollowEnd::Behind).await,
                Fed::Ended => return self.end(FollowEnd::Ended).await,
                Fed::Nothing => {}
            }
            let silence = self.spoken + limits::FOLLOW_HEARTBEAT;
            let event = tokio::select! {
                changed = news.changed() => match changed {
                    Ok(()) => Event::News,
                    Err(_) => return self.end(FollowEnd::Ended).await,
                },
                wanted = next_wanted(&mut self.frames) => Event::Wanted(wanted?),
                version = changed(&mut manifests) => Event::Manifest(version),
                () = sleep_until(silence) => Event::Silence,
                () = self.chunks.closed() => return Err(Gone),
            };
            match event {
                Event::News => {}
                Event::Wanted(wanted) => self.wanted = wanted,
                Event::Manifest(version) => self.send(vec![wire::encode_manifest(version)]).await?,
                Event::Silence => self.send(vec![wire::encode_heartbeat()]).await?,
            }
        }
    }

    async fn end(mut self, end: FollowEnd) -> Result<(), Gone> {
        self.send(vec![wire::encode_end(end)]).await
    }

    /// Sends a frame once the follower has taken enough of what came before it.
    async fn send(&mut self, parts: Vec<Bytes>) -> Result<(), Gone> {
        let mut buffer = FrameBuffer::default();
        buffer.push(&parts);
        for chunk in buffer.take() {
            self.chunks.send(chunk).await.map_err(|_| Gone)?;
        }
        self.spoken = Instant::now();
        Ok(())
    }
}

async fn next_wanted(frames: &mut FrameReader) -> Result<BTreeSet<TopicId>, Gone> {
    let frame = frames.next().await?.ok_or(Gone)?;
    wire::decode_wanted(&frame).map_err(|_| Gone)
}

/// Waits for another version of the manifest; for ever where none is told.
async fn changed(versions: &mut Option<watch::Receiver<u64>>) -> u64 {
    if let Some(receiver) = versions {
        if receiver.changed().await.is_ok() {
            return *receiver.borrow_and_update();
        }
        *versions = None;
    }
    std::future::pending().await
}
