//! The way from a shard to whoever leads it now, and how a share of a unit gets there.
//!
//! Where nobody else can lead, the way is fixed and costs nothing. Otherwise leaders come and go while requests are under
//! way: a share that a leader refused because it does not lead, or not any more, goes to the next one, within the
//! request's deadline; one of unknown outcome does so if its name lets that leader recognise it.
//!
//! *Order.* Units of one request are stored in their order, though several are on their way at once. Each way to a leader
//! has a name, its [`Via`], and what it refuses for want of a leadership stays refused on it. So a unit is sent over a way
//! as long as all units before it that have no answer yet went over the same one; otherwise it counts as refused without
//! being sent. Refused units are sent again by [`Enqueued::acknowledged`](super::Enqueued::acknowledged), which is called
//! in the order of the units, one after the other, and not at all once a unit before it has failed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_log::error::Outcome;
use forebay_log::limits as log_limits;
use forebay_log::model::{LeaderEpoch, NodeId, ShardId};
use forebay_log::shard::{Append, AppendError, Appended, Receipt, Shard};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use crate::budget::Budget;
use crate::cluster::Via;
use crate::cluster::append::{AppendStream, EncodedAppend, RemoteShard, Sent};
use crate::limits;

const NOT_APPLIED: AppendError = AppendError::NoLeader { outcome: Outcome::NotApplied };
const UNKNOWN: AppendError = AppendError::NoLeader { outcome: Outcome::Unknown };

/// Who leads a shard, as far as this node knows.
#[derive(Debug)]
pub enum Leader {
    /// This node.
    Here(Shard),
    /// Another one.
    There(NodeId, RemoteShard),
    /// Nobody, or nobody known.
    Nobody,
}

/// A leader under the name of the way to it.
#[derive(Debug)]
struct Posted {
    leader: Leader,
    via: Via,
}

/// The way to the leader of one shard.
#[derive(Debug)]
enum Route {
    /// Nobody else can lead.
    Fixed(Shard),
    /// Whoever leads now.
    Moving(watch::Sender<Arc<Posted>>),
}

/// The ways to the leaders of all shards.
#[derive(Debug)]
pub struct Routes {
    routes: Vec<Route>,
    /// For what is kept until it is answered.
    room: Budget,
    refuses: AtomicBool,
}

impl Routes {
    /// Leads to these shards, in order of their numbers from 0 on, for good.
    pub fn fixed(shards: Vec<Shard>) -> Self {
        Self::new(shards.into_iter().map(Route::Fixed).collect())
    }

    /// Leads to the leaders of so many shards, of which none is known yet.
    pub fn moving(shards: u16) -> Self {
        let nobody = || Arc::new(Posted { leader: Leader::Nobody, via: Via::fresh() });
        Self::new((0..shards).map(|_| Route::Moving(watch::Sender::new(nobody()))).collect())
    }

    fn new(routes: Vec<Route>) -> Self {
        Self { routes, room: Budget::new(limits::MOVING_BYTES_MAX, 0), refuses: AtomicBool::new(false) }
    }

    /// Sends appends to this leader from now on. A fixed way, and one to a shard that the cluster does not have, stays as
    /// it is.
    pub fn set(&self, shard: ShardId, leader: Leader) {
        if let Some(Route::Moving(posted)) = self.routes.get(usize::from(shard.get())) {
            posted.send_replace(Arc::new(Posted { leader, via: Via::fresh() }));
        }
    }

    /// Returns the leader of a shard if it is on this node.
    pub fn here(&self, shard: ShardId) -> Option<Shard> {
        match self.get(shard)? {
            Route::Fixed(leader) => Some(leader.clone()),
            Route::Moving(posted) => match &posted.borrow().leader {
                Leader::Here(leader) => Some(leader.clone()),
                Leader::There(..) | Leader::Nobody => None,
            },
        }
    }

    /// Returns which other node leads a shard, so far as this one knows, and its epoch.
    pub fn there(&self, shard: ShardId) -> Option<(NodeId, LeaderEpoch)> {
        match self.get(shard)? {
            Route::Fixed(_) => None,
            Route::Moving(posted) => match &posted.borrow().leader {
                Leader::There(node, remote) => Some((*node, remote.epoch())),
                Leader::Here(_) | Leader::Nobody => None,
            },
        }
    }

    /// Returns the leaders on this node.
    pub fn led_here(&self) -> Vec<Shard> {
        let shards = 0..u16::try_from(self.routes.len()).unwrap_or(u16::MAX);
        shards.filter_map(|shard| self.here(ShardId::new(shard))).collect()
    }

    /// Refuses requests that begin from now on: the node stops. Those under way go on.
    pub fn refuse(&self) {
        self.refuses.store(true, Ordering::Relaxed);
    }

    pub(super) fn refuses(&self) -> bool {
        self.refuses.load(Ordering::Relaxed)
    }

    fn get(&self, shard: ShardId) -> Option<&Route> {
        self.routes.get(usize::from(shard.get()))
    }

    /// Hands a share over; where leaders move, keeps it until there is one that it may be handed to.
    ///
    /// # Errors
    /// [`AppendError`]; nothing is stored. [`AppendError::Overloaded`] when there is no room for what is kept, within
    /// [`log_limits::ADMISSION_WAIT_MAX`].
    pub(super) async fn enqueue(
        self: &Arc<Self>,
        shard: ShardId,
        append: Append,
        lanes: &mut Lanes,
    ) -> Result<Share, AppendError> {
        match self.get(shard).ok_or(NOT_APPLIED)? {
            Route::Fixed(leader) => leader.enqueue(append).await.map(Share::Fixed),
            Route::Moving(posted) => {
                let room = self.room.take(append.size_bytes(), log_limits::ADMISSION_WAIT_MAX).await;
                let room = room.ok_or(AppendError::Overloaded)?;
                let posted = Arc::clone(&posted.borrow());
                let mut share = Moving::new(Arc::clone(self), shard, append, lanes.failed());
                share.room = Some(room);
                lanes.lane(shard).send(&mut share, &posted).await?;
                Ok(Share::Moving(Box::new(share)))
            }
        }
    }
}

/// A leader as it is now.
enum Hand<'a> {
    Here(&'a Shard, Via),
    There(Arc<AppendStream>),
}

impl<'a> Hand<'a> {
    fn to(posted: &'a Posted) -> Option<Self> {
        match &posted.leader {
            Leader::Here(shard) => Some(Self::Here(shard, posted.via)),
            Leader::There(_, remote) => Some(Self::There(remote.stream())),
            Leader::Nobody => None,
        }
    }

    fn via(&self) -> Via {
        match self {
            Self::Here(_, via) => *via,
            Self::There(stream) => stream.via(),
        }
    }
}

/// What of one request is on its way, by shard.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<ShardId, Lane>,
    failed: Option<Arc<AtomicBool>>,
}

impl Lanes {
    fn lane(&mut self, shard: ShardId) -> &mut Lane {
        self.lanes.entry(shard).or_default()
    }

    /// Returns what tells that a unit of the request has failed.
    fn failed(&mut self) -> Arc<AtomicBool> {
        Arc::clone(self.failed.get_or_insert_default())
    }
}

/// The shares of one request for one shard.
#[derive(Debug, Default)]
struct Lane {
    /// The way that those without an answer took; none when one of them is still here.
    via: Option<Via>,
    /// What the last of them is called on that way.
    last: u64,
    /// Held by each of them.
    place: Arc<()>,
}

impl Lane {
    /// Sends the next share, unless the order forbids it: then it counts as refused.
    async fn send(&mut self, share: &mut Moving, posted: &Posted) -> Result<(), AppendError> {
        let alone = Arc::strong_count(&self.place) == 1;
        share.place = Some(Arc::clone(&self.place));
        let hand = Hand::to(posted).filter(|hand| alone || self.via == Some(hand.via()));
        let before = self.via.take();
        let Some(hand) = hand else { return Ok(()) };
        let via = hand.via();
        let after = if before == Some(via) { self.last } else { 0 };
        share.tried = Some(posted.via);
        match share.hand_over(hand, after, Instant::now() + limits::PRODUCE_WAIT_MAX).await {
            Ok(number) => (self.via, self.last) = (Some(via), number),
            Err(error) if is_for_want_of_a_leader(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// A shard's share of a unit on its way.
#[derive(Debug)]
pub(super) enum Share {
    /// Answered once.
    Fixed(Receipt),
    /// Sent again when its leader does not lead any more.
    Moving(Box<Moving>),
}

impl Share {
    /// Waits until it is as durable as it asks, at most this long.
    ///
    /// # Errors
    /// [`AppendError`]; its outcome says whether a retry may duplicate.
    pub(super) async fn acknowledged_within(self, wait: Duration) -> Result<Appended, AppendError> {
        match self {
            Self::Fixed(receipt) => receipt.acknowledged_within(wait).await,
            Self::Moving(share) => share.acknowledged(Instant::now() + wait).await,
        }
    }

    /// Returns where to note that the unit has failed, so that nothing of its request is sent any more.
    pub(super) fn failed(&self) -> Option<Arc<AtomicBool>> {
        match self {
            Self::Fixed(_) => None,
            Self::Moving(share) => Some(Arc::clone(&share.failed)),
        }
    }
}

/// What is sent, in the form that its last leader needed.
#[derive(Debug)]
enum Payload {
    Plain(Append),
    Encoded(EncodedAppend),
}

impl Payload {
    /// Returns a copy for a leader on this node.
    fn plain(&self) -> Append {
        match self {
            Self::Plain(append) => append.clone(),
            Self::Encoded(append) => append.decode().expect("what was encoded here can be decoded"),
        }
    }

    /// Returns what goes to another node; it is encoded once.
    fn encoded(&mut self) -> Result<EncodedAppend, AppendError> {
        if let Self::Plain(append) = self {
            let (size, limit) = (append.size_bytes(), log_limits::BATCH_BYTES_MAX / 2);
            let append = std::mem::take(append);
            let encoded = EncodedAppend::new(append).map_err(|_| AppendError::TooLarge { size, limit })?;
            *self = Self::Encoded(encoded);
        }
        match self {
            Self::Encoded(append) => Ok(append.clone()),
            Self::Plain(_) => Err(AppendError::Empty),
        }
    }
}

/// A share that may have to look for its leader.
#[derive(Debug)]
pub(super) struct Moving {
    routes: Arc<Routes>,
    shard: ShardId,
    payload: Payload,
    is_named: bool,
    /// Of the attempt under way.
    receipt: Option<Receipt>,
    /// The leader that it was handed to last.
    tried: Option<Via>,
    place: Option<Arc<()>>,
    room: Option<OwnedSemaphorePermit>,
    failed: Arc<AtomicBool>,
}

impl Moving {
    fn new(routes: Arc<Routes>, shard: ShardId, append: Append, failed: Arc<AtomicBool>) -> Self {
        let (is_named, payload) = (append.dedupe.is_some(), Payload::Plain(append));
        let (receipt, tried, place, room) = (None, None, None, None);
        Self { routes, shard, payload, is_named, receipt, tried, place, room, failed }
    }

    /// Hands it to a leader. Returns what it is called there.
    async fn hand_over(&mut self, hand: Hand<'_>, after: u64, deadline: Instant) -> Result<u64, AppendError> {
        let sent = match hand {
            Hand::Here(leader, _) => Sent { receipt: leader.enqueue(self.payload.plain()).await?, number: 0 },
            Hand::There(stream) => stream.enqueue(&self.payload.encoded()?, after, deadline).await?,
        };
        self.receipt = Some(sent.receipt);
        Ok(sent.number)
    }

    async fn acknowledged(mut self, deadline: Instant) -> Result<Appended, AppendError> {
        let routes = Arc::clone(&self.routes);
        let Some(Route::Moving(posted)) = routes.get(self.shard) else { return Err(NOT_APPLIED) };
        let mut changes = posted.subscribe();
        let (mut pause, mut unknown) = (limits::REROUTE_PAUSE_MIN, false);
        loop {
            if let Some(receipt) = self.receipt.take() {
                let wait = deadline.saturating_duration_since(Instant::now());
                match receipt.acknowledged_within(wait).await {
                    Err(error) if self.may_go_again(&error) => unknown |= error.outcome() == Outcome::Unknown,
                    answer => return answer.map_err(|error| in_all(error, unknown)),
                }
            }
            if self.failed.load(Ordering::Relaxed) || Instant::now() >= deadline {
                return Err(if unknown { UNKNOWN } else { NOT_APPLIED });
            }
            let posted = self.next_leader(&mut changes, &mut pause, deadline).await;
            let Some(hand) = Hand::to(&posted) else { continue };
            self.tried = Some(posted.via);
            match self.hand_over(hand, 0, deadline).await {
                Err(error) if !is_for_want_of_a_leader(&error) => return Err(in_all(error, unknown)),
                _ => {}
            }
        }
    }

    /// Returns a leader that it was not handed to yet, or after a pause the same.
    async fn next_leader(
        &self,
        changes: &mut watch::Receiver<Arc<Posted>>,
        pause: &mut Duration,
        deadline: Instant,
    ) -> Arc<Posted> {
        let posted = Arc::clone(&changes.borrow_and_update());
        if self.tried != Some(posted.via) && !matches!(posted.leader, Leader::Nobody) {
            return posted;
        }
        let until = deadline.min(Instant::now() + *pause);
        *pause = (*pause * 2).min(limits::REROUTE_PAUSE_MAX);
        // Changed or not: the same leader may have begun meanwhile.
        let _ = timeout_at(until, changes.changed()).await;
        Arc::clone(&changes.borrow_and_update())
    }

    fn may_go_again(&self, error: &AppendError) -> bool {
        is_for_want_of_a_leader(error) || (self.is_named && *error == UNKNOWN)
    }
}

/// Tells whether another leader may take what this one refused.
fn is_for_want_of_a_leader(error: &AppendError) -> bool {
    matches!(error, AppendError::NoLeader { outcome: Outcome::NotApplied } | AppendError::Draining)
}

/// Says what the last error comes to, when an attempt before it may have been stored: a leader that looked for the name
/// of the append knows that none was.
fn in_all(error: AppendError, unknown: bool) -> AppendError {
    let judged =
        !matches!(error, AppendError::NoLeader { .. } | AppendError::Draining | AppendError::Overloaded);
    if unknown && !judged { UNKNOWN } else { error }
}
