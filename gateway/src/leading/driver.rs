//! Carries out what [`Leases`] decides: speaks to the coordinator and to other nodes, gives orders to keepers, and notes
//! for everybody on this node who leads what.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use forebay_log::coordinator::lease::{Action, Event, Probe, Standing};
use forebay_log::coordinator::{Coordinator, Hint, Lease, Leases, NodeInfo};
use forebay_log::model::{Incarnation, LeaderEpoch, ShardId};
use forebay_log::shard::Shard;
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::health::{StoreHealth, look};
use super::keeper::{News, Order, Resign, Resigned, Why};
use super::local::{Shown, Standings, Told, lease_of};
use super::{Means, Readiness};
use crate::cluster::call::{Does, Probe as PeerProbe};
use crate::cluster::{PeerError, Peers};
use crate::limits;
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
    /// The shards of which this node truncated something.
    pub(super) truncated: watch::Receiver<BTreeSet<ShardId>>,
    pub(super) course: watch::Receiver<Course>,
}

/// Where the node is in its life among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Course {
    /// It watches, and leads nothing: the store may not be fit for it.
    Watches,
    /// It takes part.
    TakesPart,
    /// It gives away what it leads.
    Drains,
    /// Nobody waits for it any more.
    Leaves,
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
    pub(super) ready: watch::Sender<Readiness>,
    pub(super) began: Instant,
    pub(super) tasks: FuturesUnordered<BoxFuture<'static, Done>>,
    pub(super) leftovers: BTreeSet<ShardId>,
    pub(super) health: StoreHealth,
    /// Shards that this node leads and the others are to look at, once the coordinator knows.
    pub(super) unannounced: Vec<ShardId>,
    /// Those that the beat under way makes known.
    pub(super) announced: Vec<ShardId>,
    /// Shards whose manifests are being looked at because of a hint.
    pub(super) refreshing: BTreeSet<ShardId>,
    /// Whether the store is known to be fit.
    pub(super) takes_part: bool,
    /// When the node began to stop.
    pub(super) stops_since: Option<Instant>,
    pub(super) left: bool,
}

/// What a task came to.
#[derive(Debug)]
pub(super) enum Done {
    Event(Event),
    /// A look at the store.
    Looked(bool),
    /// A look at a shard's manifest.
    Refreshed(ShardId),
}

impl Driver {
    /// Drives until the node has left the cluster.
    pub(super) async fn run(mut self, mut inbox: Inbox) {
        self.handle(Event::Tick);
        while !(self.left && self.tasks.is_empty()) {
            let wake = self.wake();
            let event = tokio::select! {
                Some(done) = self.tasks.next(), if !self.tasks.is_empty() => self.done(done),
                Some((shard, news)) = inbox.news.recv() => self.heard(shard, news),
                Some(told) = inbox.told.recv() => self.told(told),
                hint = inbox.hints.recv() => self.hinted(hint),
                Ok(()) = inbox.topics.changed() => {
                    let version = *inbox.topics.borrow_and_update();
                    self.publish(Hint::TopicsChanged { version });
                    Event::Tick
                }
                Ok(()) = inbox.truncated.changed() => {
                    self.publish_truncated();
                    Event::Tick
                }
                Ok(()) = inbox.course.changed() => self.goes_on(*inbox.course.borrow_and_update()),
                () = sleep_until(wake) => Event::Tick,
            };
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        self.note_leftovers();
        self.note_health();
        match &event {
            // Before that others would see none.
            Event::Viewed(_) => {
                for shard in std::mem::take(&mut self.announced) {
                    self.publish(Hint::LeaderChanged { shard });
                }
            }
            Event::BeatFailed => self.unannounced.append(&mut self.announced),
            _ => {}
        }
        self.tell(event);
        self.show();
    }

    fn tell(&mut self, event: Event) {
        for action in self.leases.handle(event, self.began.elapsed()) {
            self.carry_out(action);
        }
    }

    /// Returns when to go on if nothing happens before.
    fn wake(&self) -> Option<Instant> {
        let wake = self.began.checked_add(self.leases.wake());
        let look = (!self.health.is_usable()).then(|| Instant::now() + limits::STORE_LOOK_PAUSE);
        wake.into_iter().chain(look).min()
    }

    fn done(&mut self, done: Done) -> Event {
        match done {
            Done::Event(event) => return event,
            Done::Looked(succeeded) => self.health.looked(succeeded),
            Done::Refreshed(shard) => {
                self.refreshing.remove(&shard);
            }
        }
        Event::Tick
    }

    fn goes_on(&mut self, course: Course) -> Event {
        self.takes_part = course > Course::Watches;
        if course <= Course::TakesPart {
            return Event::Tick;
        }
        self.stops_since.get_or_insert_with(Instant::now);
        if course == Course::Leaves {
            self.handle(Event::Leave);
        }
        match self.leases.me().draining {
            true => Event::Tick,
            false => Event::Drain,
        }
    }

    /// Sees whether this node may lead: it has caught up, and can use the store.
    fn note_health(&mut self) {
        let led_here = self.routes.led_here();
        let stalled = led_here.iter().map(Shard::stalled_for).max().unwrap_or_default();
        let now = Instant::now();
        self.health.judge(stalled, now);
        if self.health.begin_look(now)
            && let Some(slot) = self.means.shards.all().first()
        {
            let at = slot.at().clone();
            self.tasks.push(async move { Done::Looked(look(at).await) }.boxed());
        }
        let may_lead = self.takes_part && self.health.is_usable();
        let ready = may_lead && self.reins.iter().all(|reins| reins.caught_up);
        if ready != self.leases.me().ready {
            self.tell(Event::Ready(ready));
        }
    }

    /// Tells the others of what this node has to append again, when that changes.
    fn note_leftovers(&mut self) {
        let Some(journal) = &self.means.options.journal else { return };
        let ids = self.means.shards.all().iter().map(|slot| slot.id());
        let now: BTreeSet<ShardId> = ids.filter(|shard| journal.has_leftovers(*shard)).collect();
        if now != self.leftovers {
            self.leftovers = now.clone();
            self.tell(Event::Leftovers(now.into_iter().collect()));
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
                Event::Tick
            }
            News::Unread => {
                self.health.unread();
                Event::Tick
            }
            News::FollowBroken => Event::FollowBroken { shard },
            News::Began { epoch } => {
                self.health.took_over(true);
                Event::Began { shard, epoch }
            }
            News::NotBegun { for_want_of_the_store } => {
                if for_want_of_the_store {
                    self.health.took_over(false);
                }
                Event::Ended { shard, superseded: false }
            }
            News::Ended { superseded } => Event::Ended { shard, superseded },
        }
    }

    fn told(&mut self, told: Told) -> Event {
        match told {
            Told::Lead(shard, ended) => Event::Lead { shard, ended },
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
            Ok(Hint::ManifestChanged { shard, version }) => {
                self.refresh(shard, version);
                Event::Tick
            }
            // One of a later version.
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
            Action::TakeOver { shard } => return self.take_over(shard),
            Action::HandOver { shard, epoch, to, stopped } => self.hand_over((shard, epoch), to, stopped),
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
            Action::Doubt { shard, epoch } => {
                let resigned = self.resign((shard, epoch), Why::Superseded);
                async move {
                    // The end of the leadership is told by itself.
                    let _ = resigned.await;
                    Event::Tick
                }
                .boxed()
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
        self.spawn(task);
    }

    fn spawn(&self, task: BoxFuture<'static, Event>) {
        self.tasks.push(task.map(Done::Event).boxed());
    }

    fn beat(&mut self) -> BoxFuture<'static, Event> {
        let (coordinator, me) = (Arc::clone(&self.coordinator), self.leases.me().clone());
        let held = self.leases.held();
        self.announced = std::mem::take(&mut self.unannounced);
        async move {
            match coordinator.beat(&me, &held).await {
                Ok(view) => Event::Viewed(view),
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
            Event::Probed { shard, whom: whom.incarnation, probe: answer(whom.address, said) }
        }
        .boxed()
    }

    fn publish(&self, hint: Hint) {
        let coordinator = Arc::clone(&self.coordinator);
        let task = async move {
            // Others find out in time.
            let _ = coordinator.publish(hint).await;
            Event::Tick
        };
        self.spawn(task.boxed());
    }

    /// Tells the others of log starts that moved through this node.
    fn publish_truncated(&self) {
        for shard in self.means.shards.take_truncated() {
            let Some(slot) = self.means.shards.get(shard) else { continue };
            // Where the index stands now, and the change behind it.
            let version = *slot.index().manifest_versions().borrow() + 1;
            self.publish(Hint::ManifestChanged { shard, version });
        }
    }

    /// Looks at a shard's manifest, unless it is known in this version: one look at a time, as the rest is seen in time.
    fn refresh(&mut self, shard: ShardId, version: u64) {
        let Some(slot) = self.means.shards.get(shard) else { return };
        let index = Arc::clone(slot.index());
        let is_known = *index.manifest_versions().borrow() >= version;
        if !is_known && self.refreshing.insert(shard) {
            let task = async move {
                // It is looked at again if somebody reads.
                let _ = timeout(limits::STORE_LOOK_MAX, index.refresh()).await;
                Done::Refreshed(shard)
            };
            self.tasks.push(task.boxed());
        }
    }

    /// Gives a shard away: only a successor that answers gets it, for until it leads nobody does.
    fn hand_over(
        &self,
        (shard, epoch): (ShardId, LeaderEpoch),
        to: Option<NodeInfo>,
        stopped: bool,
    ) -> BoxFuture<'static, Event> {
        let (coordinator, me) = (Arc::clone(&self.coordinator), self.leases.me().clone());
        let why = if self.leases.would_lead() { Why::Balance } else { Why::MustGo };
        let (peers, resigned) = (self.peers.clone(), self.resign((shard, epoch), why));
        async move {
            if let Some(to) = to.as_ref().filter(|_| !stopped) {
                match peers.probe(&to.address, shard).await {
                    PeerProbe::Refused | PeerProbe::Silent => return Event::Kept { shard, epoch },
                    PeerProbe::Answered(answer) if !answer.would_lead => {
                        return Event::Declined { shard, epoch, stopped };
                    }
                    PeerProbe::Answered(_) => {}
                }
            }
            if !stopped {
                match resigned.await {
                    Some(Resigned::Ended) => {}
                    Some(Resigned::Kept) => return Event::Kept { shard, epoch },
                    // The leadership had ended before, and its keeper has said so.
                    None => return Event::Tick,
                }
            }
            let Some(to) = to else {
                // It expires by itself.
                let _ = coordinator.release(shard, &me).await;
                return Event::HandedOver { shard, epoch };
            };
            // Told directly, the successor leads even while the coordinator is away.
            let handed = coordinator.hand_over(shard, &me, &to).await;
            let told = peers.lead(&to.address, shard, epoch).await;
            tracing::info!(shard.id = %shard, successor = %to.id, handed = handed.is_ok(), told = told.is_ok(), "handed over");
            match told {
                Err(PeerError::Declined) => Event::Declined { shard, epoch, stopped: true },
                _ => Event::HandedOver { shard, epoch },
            }
        }
        .boxed()
    }

    /// Has a leadership of this node end. Comes to nothing where it has ended before.
    fn resign(
        &self,
        (shard, epoch): (ShardId, LeaderEpoch),
        why: Why,
    ) -> impl Future<Output = Option<Resigned>> + Send + 'static {
        let orders = self.reins[usize::from(shard.get())].orders.clone();
        let stops_by = self.stops_since.map(|since| since + limits::STOP_FLUSH_MAX);
        async move {
            let soon = Instant::now() + limits::HAND_OVER_FLUSH_MAX;
            let (done, resigned) = oneshot::channel();
            let resign = Resign { epoch, why, by: stops_by.unwrap_or(soon), done };
            // A keeper that does not lead this epoch any more drops it.
            let _ = orders.send(Order::Resign(resign)).await;
            resigned.await.ok()
        }
    }

    fn take_over(&self, shard: ShardId) {
        if self.reins[usize::from(shard.get())].orders.try_send(Order::TakeOver).is_err() {
            tracing::error!(shard.id = %shard, "a shard's keeper does not take orders");
            self.spawn(std::future::ready(Event::Ended { shard, superseded: false }).boxed());
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
        *self.standings.write() = Shown { standings, would_lead: self.leases.would_lead() };
        let (is_usable, is_ready) = (self.health.is_usable(), self.leases.me().ready);
        self.ready.send_if_modified(|shown| {
            let next = match *shown {
                // A shard without a leader is no reason to take all nodes out of service.
                _ if is_ready && (all_led || *shown != Readiness::Begins) => Readiness::Ready,
                Readiness::Begins => Readiness::Begins,
                _ if !is_usable => Readiness::StoreAway,
                now => now,
            };
            std::mem::replace(shown, next) != next
        });
    }
}

/// Returns what is learned from the process at an address.
fn answer(address: String, said: PeerProbe) -> Probe {
    let answer = match said {
        PeerProbe::Answered(answer) => answer,
        PeerProbe::Refused => return Probe::Refused,
        PeerProbe::Silent => return Probe::Silent,
    };
    let (node, incarnation) = (answer.node, Incarnation::new(answer.incarnation));
    let lease = |epoch| Lease { node, incarnation, address, epoch };
    Probe::Answered(match answer.does {
        Does::Leads { epoch } => Standing::Leads(lease(epoch)),
        Does::TakesOver => Standing::TakesOver(lease(LeaderEpoch::ZERO)),
        Does::Neither { hint } => Standing::Neither(hint.map(lease_of)),
    })
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
