//! One shard over the life of a node: it follows whoever leads the shard, takes it over when it is told to, leads it until
//! the log or a hand-over ends that, and follows again.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use forebay_log::coordinator::Lease;
use forebay_log::model::{LeaderEpoch, NodeId, ShardId, WalSeq};
use forebay_log::shard::{Ending, FollowError, Following, Offered, Shard};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};

use super::Means;
use crate::cluster::Peers;
use crate::cluster::follow::{FollowEnd, FollowStream, Followed, Wanted};
use crate::limits;
use crate::produce::route::{Leader, Routes};
use crate::shards::{ShardSlot, Shards};

/// What a keeper is told.
#[derive(Debug)]
pub(super) enum Order {
    /// Take the shard over.
    TakeOver,
    /// Store what was accepted, and lead no more.
    Resign {
        /// Whether another leads already, so that the end is told as any other end is.
        superseded: bool,
        /// Told when it is done; dropped where the shard is not led here.
        done: oneshot::Sender<()>,
    },
}

/// What a keeper tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Readers see what the store has: for the first time.
    CaughtUp {
        /// Whether the shard never had a leader.
        never_led: bool,
    },
    /// The leader that was followed is not there any more.
    FollowBroken,
    /// The node leads.
    Began {
        /// In this epoch.
        epoch: LeaderEpoch,
    },
    /// An attempt to lead has failed, or the leadership has ended, though not by a hand-over.
    Ended {
        /// Whether another leads.
        superseded: bool,
    },
}

/// What all keepers of a node share.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub(super) me: NodeId,
    pub(super) means: Means,
    pub(super) routes: Arc<Routes>,
    pub(super) peers: Peers,
    pub(super) wanted: watch::Receiver<Wanted>,
    pub(super) news: mpsc::Sender<(ShardId, News)>,
}

/// One shard's keeper.
#[derive(Debug)]
pub(super) struct Keeper {
    shard: ShardId,
    common: Common,
    /// Who holds the lease, so far as the driver knows.
    lease: watch::Receiver<Option<Lease>>,
    orders: mpsc::Receiver<Order>,
    rng: StdRng,
    caught_up: bool,
}

impl Keeper {
    pub(super) fn new(
        shard: ShardId,
        common: Common,
        lease: watch::Receiver<Option<Lease>>,
        orders: mpsc::Receiver<Order>,
        rng: StdRng,
    ) -> Self {
        Self { shard, common, lease, orders, rng, caught_up: false }
    }

    /// Keeps the shard until nobody can give orders any more.
    pub(super) async fn run(mut self) {
        while self.follow().await {
            self.lead().await;
        }
    }

    fn slot(&self) -> &ShardSlot {
        self.common.means.shards.get(self.shard).expect("a keeper is made for a shard that is there")
    }

    async fn tell(&self, news: News) {
        // The driver ends last of all.
        let _ = self.common.news.send((self.shard, news)).await;
    }

    /// Follows until it is told to lead; false when nobody can tell it.
    async fn follow(&mut self) -> bool {
        let signals = self.common.means.shards.signals().clone();
        let mut following =
            Following::new(self.slot().at().clone(), Arc::clone(self.slot().index()), signals);
        let (_, no_orders) = mpsc::channel(1);
        let mut orders = std::mem::replace(&mut self.orders, no_orders);
        let told = loop {
            tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(Order::TakeOver) => break true,
                    // It has ended by itself meanwhile.
                    Some(Order::Resign { .. }) => {}
                    None => break false,
                },
                () = self.follow_leader(&mut following) => {}
            }
        };
        self.orders = orders;
        told
    }

    /// Catches up from the store, then follows the leader there is for as long as it answers.
    async fn follow_leader(&mut self, following: &mut Following) {
        if let Err(error) = self.catch_up(following).await {
            tracing::warn!(shard.id = %self.shard, %error, "cannot follow the shard; trying again");
            return sleep(limits::FOLLOW_PAUSE_MAX).await;
        }
        let lease = self.lease.borrow_and_update().clone();
        let Some(lease) = lease.filter(|lease| lease.leads() && lease.node != self.common.me) else {
            return self.pause(limits::FOLLOW_POLL).await;
        };
        let (wanted, leader) = (self.common.wanted.clone(), (self.shard, lease.epoch));
        let from = following.position().unwrap_or(WalSeq::ZERO);
        match self.common.peers.follow(&lease.address, leader, from, wanted).await {
            Ok(stream) => match self.take_in(stream, following).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(shard.id = %self.shard, %error, "cannot follow the shard's leader")
                }
            },
            Err(error) => tracing::debug!(shard.id = %self.shard, %error, "cannot reach the shard's leader"),
        }
        self.tell(News::FollowBroken).await;
        let pause = self.rng.random_range(limits::FOLLOW_PAUSE_MIN..limits::FOLLOW_PAUSE_MAX);
        self.pause(pause).await;
    }

    async fn catch_up(&mut self, following: &mut Following) -> Result<(), FollowError> {
        following.catch_up().await?;
        if !std::mem::replace(&mut self.caught_up, true) {
            self.tell(News::CaughtUp { never_led: following.position().is_none() }).await;
        }
        Ok(())
    }

    /// Waits until another leads, or this long.
    async fn pause(&mut self, wait: Duration) {
        // The driver ends after this.
        let _ = tokio::time::timeout(wait, self.lease.changed()).await;
    }

    /// Applies what the leader sends until it ends or another leads. Tells whether to ask the same leader again.
    async fn take_in(
        &mut self,
        mut stream: FollowStream,
        following: &mut Following,
    ) -> Result<bool, FollowError> {
        let mut looks = manifest_looks();
        loop {
            tokio::select! {
                next = stream.next() => match next {
                    Ok(Followed::Object(object)) => {
                        if following.offer(&object) == Offered::Gap {
                            following.catch_up().await?;
                        }
                    }
                    Ok(Followed::Manifest(_)) => following.refresh_manifest().await?,
                    Ok(Followed::End(FollowEnd::Behind)) => return Ok(true),
                    Ok(Followed::End(FollowEnd::Ended | FollowEnd::NotLeading)) | Err(_) => return Ok(false),
                },
                _ = looks.tick() => if self.slot().was_asked() {
                    following.refresh_manifest().await?;
                },
                _ = self.lease.changed() => return Ok(true),
            }
        }
    }

    /// Takes the shard over and leads it to its end.
    async fn lead(&mut self) {
        let began = Instant::now();
        self.common.routes.set(self.shard, Leader::Nobody);
        let (shard, mut task) = match self.open().await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(shard.id = %self.shard, error = format!("{error:#}"), "cannot lead the shard");
                return self.tell(News::Ended { superseded: false }).await;
            }
        };
        let epoch = shard.epoch();
        tracing::info!(shard.id = %self.shard, %epoch, took = ?began.elapsed(), "leading the shard");
        let compaction = {
            let (slot, compactor) = (self.slot().at().clone(), self.common.means.compactor.clone());
            compactor.compact(&shard, &slot, &mut self.rng)
        };
        self.common.routes.set(self.shard, Leader::Here(shard.clone()));
        self.tell(News::Began { epoch }).await;
        let mut looking = pin!(look_at_manifest(Arc::clone(&self.common.means.shards), shard.clone()));
        let order = loop {
            tokio::select! {
                _ = &mut task => break None,
                () = &mut looking => {}
                order = self.orders.recv() => match order {
                    // It does already.
                    Some(Order::TakeOver) => {}
                    Some(Order::Resign { superseded, done }) => break Some((superseded, Some(done))),
                    None => break Some((false, None)),
                },
            }
        };
        if order.is_some() {
            let began = Instant::now();
            shard.drain();
            shard.flush().await;
            shard.stop().await;
            // A leader that was fenced meanwhile has ended, too.
            let _ = task.await;
            tracing::info!(shard.id = %self.shard, %epoch, took = ?began.elapsed(), "leading the shard no more");
        }
        self.common.routes.set(self.shard, Leader::Nobody);
        match order {
            Some((false, Some(done))) => {
                // The driver waits for it as long as it lives.
                let _ = done.send(());
            }
            _ => self.tell(News::Ended { superseded: shard.ended().await != Ending::Died }).await,
        }
        compaction.stop().await;
    }

    async fn open(&mut self) -> anyhow::Result<(Shard, JoinHandle<()>)> {
        let nonces = StdRng::from_rng(&mut self.rng);
        let means = &self.common.means;
        let (at, index) = (self.slot().at().clone(), Arc::clone(self.slot().index()));
        let (shard, task) = Shard::open(at, index, means.options.clone(), nonces).await?;
        // What the journal holds of topics that are known to be deleted by now is not appended again.
        means.topics.refresh().await;
        shard.recovered(false, Vec::new()).await?;
        Ok((shard, task))
    }
}

/// Takes over what other nodes change in the manifest of a shard that is led and read here: log starts above all. Never
/// ends.
async fn look_at_manifest(shards: Arc<Shards>, shard: Shard) {
    let mut looks = manifest_looks();
    loop {
        looks.tick().await;
        if shards.get(shard.id()).is_some_and(ShardSlot::was_asked)
            && let Err(error) = shard.index().refresh().await
        {
            tracing::debug!(shard.id = %shard.id(), %error, "cannot look at the shard's manifest");
        }
    }
}

fn manifest_looks() -> Interval {
    let mut looks = interval(limits::MANIFEST_LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}
