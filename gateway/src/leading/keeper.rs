//! One shard over the life of a node: it follows whoever leads the shard, takes it over when it is told to, leads it until
//! the log or a hand-over ends that, and follows again.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use forebay_log::coordinator::Lease;
use forebay_log::error::ErrorKind;
use forebay_log::model::{LeaderEpoch, NodeId, ShardId, WalSeq};
use forebay_log::shard::{Ending, FollowError, Following, Offered, OpenError, Shard};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout, timeout_at};

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
    Resign(Resign),
}

/// How a leadership is to end.
#[derive(Debug)]
pub(super) struct Resign {
    /// Which one: of another nothing is done.
    pub(super) epoch: LeaderEpoch,
    pub(super) why: Why,
    /// When it ends though not everything is stored.
    pub(super) by: Instant,
    /// Told what came of it; dropped where the epoch is not led here.
    pub(super) done: oneshot::Sender<Resigned>,
}

/// Why a leadership is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// For the sake of balance: it need not be now.
    Balance,
    /// This node cannot lead on.
    MustGo,
    /// Another leads already, so that the end is told as any other end is.
    Superseded,
}

/// What came of an order to resign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resigned {
    /// The leadership has ended.
    Ended,
    /// It goes on: too much waits for the store.
    Kept,
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
    /// An attempt to lead has failed.
    NotBegun {
        /// Whether the store did not answer in time, or not well.
        for_want_of_the_store: bool,
    },
    /// The store could not be read.
    Unread,
    /// The leadership has ended, though not by a hand-over.
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
    /// The leader that was to be followed last, and how often that has failed since it worked.
    tried: Option<Lease>,
    failures: u32,
    /// Takeovers that took too long, one after the other.
    late: u32,
}

impl Keeper {
    pub(super) fn new(
        shard: ShardId,
        common: Common,
        lease: watch::Receiver<Option<Lease>>,
        orders: mpsc::Receiver<Order>,
        rng: StdRng,
    ) -> Self {
        Self { shard, common, lease, orders, rng, caught_up: false, tried: None, failures: 0, late: 0 }
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
                    Some(Order::Resign(_)) => {}
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
            return self.rest(&error).await;
        }
        let lease = self.lease.borrow_and_update().clone();
        if self.tried != lease {
            (self.tried, self.failures) = (lease.clone(), 0);
        }
        let Some(lease) = lease.filter(|lease| lease.leads() && lease.node != self.common.me) else {
            self.failures = 0;
            return self.pause(limits::FOLLOW_POLL).await;
        };
        let (wanted, leader) = (self.common.wanted.clone(), (self.shard, lease.epoch));
        let from = following.position().unwrap_or(WalSeq::ZERO);
        let began = Instant::now();
        match self.common.peers.follow(&lease.address, leader, from, wanted).await {
            Ok(stream) => match self.take_in(stream, following).await {
                Ok(true) => {
                    self.failures = 0;
                    return;
                }
                Ok(false) => {}
                Err(error) => return self.rest(&error).await,
            },
            Err(error) => tracing::debug!(shard.id = %self.shard, %error, "cannot reach the shard's leader"),
        }
        self.tell(News::FollowBroken).await;
        if began.elapsed() > limits::FOLLOW_POLL {
            self.failures = 0;
        }
        let pause = self.next_pause();
        self.pause(pause).await;
    }

    /// Waits after the log could not be read.
    async fn rest(&mut self, error: &FollowError) {
        if error.kind() == ErrorKind::Corrupt {
            tracing::error!(shard.id = %self.shard, %error, "cannot follow the shard: its log is damaged");
            return sleep(limits::FOLLOW_DAMAGE_PAUSE).await;
        }
        tracing::warn!(shard.id = %self.shard, %error, "cannot follow the shard; trying again");
        self.tell(News::Unread).await;
        sleep(self.next_pause()).await;
    }

    /// Returns a pause that is longer each time the same fails.
    fn next_pause(&mut self) -> Duration {
        let doubled = limits::FOLLOW_PAUSE_MIN.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let most = doubled.min(limits::FOLLOW_POLL);
        self.rng.random_range(most / 2..=most)
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
        let most = limits::TAKEOVER_MAX.saturating_mul(1 << self.late.min(8)).min(limits::TAKEOVER_LONG_MAX);
        let opened = timeout(most, self.open()).await;
        self.late = if opened.is_err() { self.late.saturating_add(1) } else { 0 };
        let opened = opened.context("it took too long").and_then(|opened| opened);
        let (shard, mut task) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::warn!(shard.id = %self.shard, error = format!("{error:#}"), "cannot lead the shard");
                let kind = error.downcast_ref::<OpenError>().map_or(ErrorKind::Unavailable, OpenError::kind);
                let for_want_of_the_store = kind == ErrorKind::Unavailable;
                return self.tell(News::NotBegun { for_want_of_the_store }).await;
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
        let resign = loop {
            tokio::select! {
                _ = &mut task => break None,
                () = &mut looking => {}
                order = self.orders.recv() => match order {
                    // It does already, and the driver missed it.
                    Some(Order::TakeOver) => self.tell(News::Began { epoch }).await,
                    // What is meant has ended.
                    Some(Order::Resign(resign)) if resign.epoch != epoch => {}
                    Some(Order::Resign(resign)) if may_stay(&shard, &resign).await => {
                        // The driver waits for it as long as it lives.
                        let _ = resign.done.send(Resigned::Kept);
                    }
                    Some(Order::Resign(resign)) => break Some(resign),
                    None => break Some(Resign::unasked(epoch)),
                },
            }
        };
        if let Some(resign) = &resign {
            stop(&shard, resign).await;
        }
        self.common.routes.set(self.shard, Leader::Nobody);
        match resign {
            Some(Resign { why: Why::Balance | Why::MustGo, done, .. }) => {
                // As above.
                let _ = done.send(Resigned::Ended);
            }
            _ => {
                let superseded = resign.is_some() || shard.ended().await != Ending::Died;
                self.tell(News::Ended { superseded }).await;
            }
        }
        compaction.stop().await;
        if !task.is_finished() {
            // It may answer some who wait for the journal. One that died has said so.
            let _ = task.await;
        }
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

impl Resign {
    /// Nobody is left to ask for it, or to hear of it.
    fn unasked(epoch: LeaderEpoch) -> Self {
        let (done, _) = oneshot::channel();
        Self { epoch, why: Why::MustGo, by: Instant::now() + limits::HAND_OVER_FLUSH_MAX, done }
    }
}

/// Tells whether a leader goes on that was asked to resign for the sake of balance: what waits for the store would not
/// get there in time, while nothing would be accepted.
async fn may_stay(shard: &Shard, resign: &Resign) -> bool {
    resign.why == Why::Balance && timeout_at(resign.by, shard.flush()).await.is_err()
}

/// Ends a leadership: what it took is stored, if that can be done by then.
async fn stop(shard: &Shard, resign: &Resign) {
    let (began, id, epoch) = (Instant::now(), shard.id(), shard.epoch());
    let by = match resign.why {
        // It was not begun before most was stored.
        Why::Balance => began + limits::HAND_OVER_FLUSH_MAX,
        Why::MustGo | Why::Superseded => resign.by,
    };
    let stored = async {
        shard.drain();
        shard.flush().await;
        shard.stop().await;
        // A leader that was fenced meanwhile has ended, too.
        shard.ended().await
    };
    if timeout_at(by, stored).await.is_err() {
        tracing::warn!(shard.id = %id, %epoch, "the store does not take in time what was accepted; its outcome is unknown");
        shard.give_up();
        shard.ended().await;
    }
    tracing::info!(shard.id = %id, %epoch, took = ?began.elapsed(), "leading the shard no more");
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
