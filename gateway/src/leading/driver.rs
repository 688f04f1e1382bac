//! Carries out what [`Leases`] decides: speaks to the coordinator and to other nodes, gives orders to keepers, and notes
//! for everybody on this node who leads what.

use std::collections::BTreeSet;
use std::sync::Arc;

use forebay_log::coordinator::lease::{Action, Event, Probe, Standing};
use forebay_log::coordinator::{Coordinator, Hint, Lease, Leases, NodeInfo};
use forebay_log::model::{LeaderEpoch, ShardId};
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::Means;
use super::keeper::{News, Order};
use super::local::{Standings, Told, lease_of};
use crate::cluster::Peers;
use crate::cluster::call::Probe as PeerProbe;
use crate::produce::route::{Leader, Routes};

/// The way to one shard's keeper, and what was told about the shard last.
#[derive(Debug)]
pub(super) struct Reins {
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) lease: watch::Sender<Option<Lease>>,
    /// The leader elsewhere to whom appends go.
    pub(super) there: Option<Lease>,
    pub(super) caught_up: bool,
}

/// What others tell the driver.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) news: mpsc::Receiver<(ShardId, News)>,
    pub(super) told: mpsc::Receiver<Told>,
    pub(super) hints: broadcast::Receiver<Hint>,
    /// The version of the register of topics that this node wrote last.
    pub(super) topics: watch::Receiver<u64>,
    pub(super) drain: watch::Receiver<bool>,
}

/// The driver of a node.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) leases: Leases,
    pub(super) coordinator: Arc<dyn Coordinator>,
    pub(super) peers: Peers,
    pub(super) means: Means,
    pub(super) routes: Arc<Routes>,
    pub(super) reins: Vec<Reins>,
    pub(super) standings: Standings,
    pub(super) ready: watch::Sender<bool>,
    pub(super) began: Instant,
    pub(super) tasks: FuturesUnordered<BoxFuture<'static, Event>>,
    pub(super) leftovers: BTreeSet<ShardId>,
    /// Shards that this node leads and the others are to look at, once the coordinator knows.
    pub(super) unannounced: Vec<ShardId>,
    pub(super) left: bool,
}

impl Driver {
    /// Drives until the node has left the cluster.
    pub(super) async fn run(mut self, mut inbox: Inbox) {
        self.handle(Event::Tick);
        while !(self.left && self.tasks.is_empty()) {
            let wake = self.began.checked_add(self.leases.wake());
            let event = tokio::select! {
                Some(event) = self.tasks.next(), if !self.tasks.is_empty() => event,
                Some((shard, news)) = inbox.news.recv() => self.heard(shard, news),
                Some(told) = inbox.told.recv() => self.told(told),
                hint = inbox.hints.recv() => self.hinted(hint),
                Ok(()) = inbox.topics.changed() => {
                    let version = *inbox.topics.borrow_and_update();
                    self.tasks.push(self.publish(Hint::TopicsChanged { version }));
                    Event::Tick
                }
                Ok(()) = inbox.drain.changed() => Event::Drain,
                () = sleep_until(wake) => Event::Tick,
            };
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        self.note_leftovers();
        for action in self.leases.handle(event, self.began.elapsed()) {
            self.carry_out(action);
        }
        self.show();
    }

    /// Tells the others of what this node has to append again, when that changes.
    fn note_leftovers(&mut self) {
        let Some(journal) = &self.means.options.journal else { return };
        let ids = self.means.shards.all().iter().map(|slot| slot.id());
        let now: BTreeSet<ShardId> = ids.filter(|shard| journal.has_leftovers(*shard)).collect();
        if now != self.leftovers {
            self.leftovers = now.clone();
            let event = Event::Leftovers(now.into_iter().collect());
            for action in self.leases.handle(event, self.began.elapsed()) {
                self.carry_out(action);
            }
        }
    }

    fn heard(&mut self, shard: ShardId, news: News) -> Event {
        match news {
            News::CaughtUp { never_led } => {
                if never_led {
                    self.handle(Event::NeverLed { shard });
                }
                if let Some(reins) = self.reins.get_mut(usize::from(shard.get())) {
                    reins.caught_up = true;
                }
                match self.reins.iter().all(|reins| reins.caught_up) {
                    true => Event::Ready(true),
                    false => Event::Tick,
                }
            }
            News::FollowBroken => Event::FollowBroken { shard },
            News::Began { epoch } => Event::Began { shard, epoch },
            News::Ended { superseded } => Event::Ended { shard, superseded },
        }
    }

    fn told(&mut self, told: Told) -> Event {
        match told {
            Told::Lead(shard) => Event::Lead { shard },
            Told::Learned(shard, lease) => {
                self.leases.hint(shard, &lease);
                Event::Tick
            }
        }
    }

    fn hinted(&mut self, hint: Result<Hint, broadcast::error::RecvError>) -> Event {
        match hint {
            Ok(Hint::LeaderChanged { shard }) => Event::LeaderChanged { shard },
            Ok(Hint::TopicsChanged { version }) => {
                self.means.topics.hint(version);
                // A leader may be asked by no request of its own, and has to know what was deleted.
                self.means.topics.nudge();
                Event::Tick
            }
            // The leader tells those that follow it; hints are for what leaders do not see.
            Ok(_) => Event::Tick,
            // Some were missed: what they would have said is looked up in time.
            Err(_) => Event::Tick,
        }
    }

    fn carry_out(&mut self, action: Action) {
        tracing::debug!(?action, "leases");
        let task = match action {
            Action::Beat => self.beat(),
            Action::Probe { shard, whom } => self.probe(shard, whom),
            Action::Acquire { shard, instead_of } => {
                let (coordinator, me) = (Arc::clone(&self.coordinator), self.leases.me().clone());
                async move {
                    let won = coordinator.acquire(shard, &me, instead_of).await;
                    Event::Acquired { shard, won: won.unwrap_or(false) }
                }
                .boxed()
            }
            Action::TakeOver { shard } => return self.order(shard, Order::TakeOver),
            Action::HandOver { shard, to } => self.hand_over(shard, to),
            Action::Release { shard } => {
                let (coordinator, me) = (Arc::clone(&self.coordinator), self.leases.me().clone());
                async move {
                    // It expires by itself.
                    let _ = coordinator.release(shard, &me).await;
                    Event::Tick
                }
                .boxed()
            }
            Action::Announce { shard } => return self.unannounced.push(shard),
            Action::Doubt { shard } => {
                let (done, _) = oneshot::channel();
                return self.order(shard, Order::Resign { superseded: true, done });
            }
            Action::Leave => {
                self.left = true;
                let (coordinator, me) = (Arc::clone(&self.coordinator), self.leases.me().clone());
                async move {
                    // Everything of it expires by itself.
                    let _ = coordinator.leave(&me).await;
                    Event::Tick
                }
                .boxed()
            }
        };
        self.tasks.push(task);
    }

    /// Beats, and tells the others of new leaderships that it has made known: before that they would see none.
    fn beat(&mut self) -> BoxFuture<'static, Event> {
        let (coordinator, me) = (Arc::clone(&self.coordinator), self.leases.me().clone());
        let (held, began) = (self.leases.held(), std::mem::take(&mut self.unannounced));
        async move {
            match coordinator.beat(&me, &held).await {
                Ok(view) => {
                    for shard in began {
                        // Others find out in time.
                        let _ = coordinator.publish(Hint::LeaderChanged { shard }).await;
                    }
                    Event::Viewed(view)
                }
                Err(error) => {
                    tracing::warn!(%error, "the coordinator does not answer: leaders stay as they are");
                    Event::BeatFailed
                }
            }
        }
        .boxed()
    }

    fn probe(&self, shard: ShardId, whom: Lease) -> BoxFuture<'static, Event> {
        let peers = self.peers.clone();
        async move {
            let said = peers.probe(&whom.address, shard).await;
            Event::Probed { shard, whom: whom.incarnation, probe: answer(whom, said) }
        }
        .boxed()
    }

    fn publish(&self, hint: Hint) -> BoxFuture<'static, Event> {
        let coordinator = Arc::clone(&self.coordinator);
        async move {
            // Others find out in time.
            let _ = coordinator.publish(hint).await;
            Event::Tick
        }
        .boxed()
    }

    /// Gives a shard away: only a successor that answers gets it, for until it leads nobody does.
    fn hand_over(&self, shard: ShardId, to: Option<NodeInfo>) -> BoxFuture<'static, Event> {
        let (coordinator, me) = (Arc::clone(&self.coordinator), self.leases.me().clone());
        let (peers, orders) = (self.peers.clone(), self.reins[usize::from(shard.get())].orders.clone());
        async move {
            if let Some(to) = &to
                && matches!(peers.probe(&to.address, shard).await, PeerProbe::Refused | PeerProbe::Silent)
            {
                return Event::Kept { shard };
            }
            let (done, resigned) = oneshot::channel();
            // A keeper that does not lead any more has said so, and drops it.
            let _ = orders.send(Order::Resign { superseded: false, done }).await;
            if resigned.await.is_err() {
                return Event::Tick;
            }
            let Some(to) = to else {
                // It expires by itself.
                let _ = coordinator.release(shard, &me).await;
                return Event::HandedOver { shard };
            };
            // Told directly, the successor leads even while the coordinator is away.
            let handed = coordinator.hand_over(shard, &me, &to).await;
            let told = peers.lead(&to.address, shard).await;
            tracing::info!(shard.id = %shard, successor = %to.id, handed = handed.is_ok(), told = told.is_ok(), "handed over");
            Event::HandedOver { shard }
        }
        .boxed()
    }

    fn order(&self, shard: ShardId, order: Order) {
        if self.reins[usize::from(shard.get())].orders.try_send(order).is_err() {
            // The machine gives one order at a time, and a keeper lives as long as the driver.
            tracing::error!(shard.id = %shard, "a shard's keeper does not take orders");
        }
    }

    /// Shows what is known now: to other nodes, to keepers, to producers.
    fn show(&mut self) {
        let mut all_led = true;
        let mut standings = Vec::with_capacity(self.reins.len());
        for (slot, reins) in self.means.shards.all().iter().zip(&mut self.reins) {
            let shard = slot.id();
            let standing = self.leases.standing(shard);
            let known = self.leases.leader_of(shard);
            all_led &= known.as_ref().is_some_and(Lease::leads);
            // While this node leads, or tries to, the keeper says who leads.
            if let Standing::Neither(elsewhere) = &standing {
                let there = elsewhere.clone().filter(Lease::leads);
                if there != reins.there {
                    self.routes.set(
                        shard,
                        there.as_ref().map_or(Leader::Nobody, |lease| {
                            Leader::There(lease.node, self.peers.shard(&lease.address, shard, lease.epoch))
                        }),
                    );
                }
                reins.there = there;
            } else {
                reins.there = None;
            }
            reins.lease.send_if_modified(|lease| {
                let changed = *lease != known;
                *lease = known;
                changed
            });
            standings.push(standing);
        }
        *self.standings.write() = standings;
        if all_led && self.leases.me().ready {
            self.ready.send_if_modified(|ready| !std::mem::replace(ready, true));
        }
    }
}

/// Returns what a node's answer says of the run of a process that was asked.
fn answer(whom: Lease, said: PeerProbe) -> Probe {
    match said {
        PeerProbe::Leads { epoch } => Probe::Answered(Standing::Leads(Lease { epoch, ..whom })),
        PeerProbe::TakingOver => {
            Probe::Answered(Standing::TakesOver(Lease { epoch: LeaderEpoch::ZERO, ..whom }))
        }
        PeerProbe::Idle { hint } => Probe::Answered(Standing::Neither(hint.map(lease_of))),
        PeerProbe::Refused => Probe::Refused,
        PeerProbe::Silent => Probe::Silent,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
