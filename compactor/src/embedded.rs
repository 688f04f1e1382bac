//! The compactor inside a gateway: one worker for each shard that the node leads, for as long as it does.
//!
//! Each second it looks at what its shard has above its floor, which is in memory; so it costs no request until a roll is
//! due. All workers of a node share one place: at most one roll's bytes are held at a time.

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior};

use forebay_log::clock::Clock;
use forebay_log::format::manifest::Manifest;
use forebay_log::limits;
use forebay_log::shard::{Shard, ShardStore};

use crate::error::CompactorError;
use crate::gc::{self, Commit};
use crate::plan::Policy;
use crate::roll;

/// What the node's own compactor does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Rolls, sweeps and deletes: nobody else need.
    Whole,
    /// Others compact, and this one deletes nothing. It rolls a shard only once [`limits::SELF_ROLL_OBJECTS`] lie above
    /// its floor, so that a takeover never has much more to read, whatever has become of the others.
    SelfRoll,
}

impl Mode {
    /// Returns when a roll is due while the shard is led.
    fn policy(self) -> Policy {
        match self {
            Self::Whole => Policy::default(),
            Self::SelfRoll => {
                let objects = limits::SELF_ROLL_OBJECTS;
                Policy { objects, age: Duration::MAX, ..Policy::default() }
            }
        }
    }

    /// Tells how many objects on the path, EPOCHs included, call for a roll at the start.
    fn objects_at_start(self) -> usize {
        match self {
            Self::Whole => limits::ROLL_OBJECTS_AT_START,
            Self::SelfRoll => limits::SELF_ROLL_OBJECTS,
        }
    }
}

/// The compactor of one node.
#[derive(Debug, Clone)]
pub struct Embedded {
    clock: Arc<dyn Clock>,
    mode: Mode,
    rolling: Arc<Semaphore>,
}

impl Embedded {
    /// Sets one up, for all shards that the node will lead.
    pub fn new(clock: Arc<dyn Clock>, mode: Mode) -> Self {
        Self { clock, mode, rolling: Arc::new(Semaphore::new(1)) }
    }

    /// Rolls and sweeps a shard that this node leads, until its leadership ends, or `stop` turns true or its sender is
    /// gone.
    ///
    /// A failure is logged when it begins and when it ends, and retried with a growing pause, up to
    /// [`limits::ROLL_BACKOFF_MAX`]. `seed` must be drawn anew for each call in each process: it decides names that must
    /// not repeat.
    ///
    /// # Cancel safety
    /// May be dropped at any time; what was begun is done again or swept later.
    pub async fn run(&self, shard: Shard, at: ShardStore, seed: u64, mut stop: watch::Receiver<bool>) {
        let ended = shard.clone();
        let mut worker = Worker::new(self.clone(), shard, at, seed);
        let work = async {
            let mut looks = tokio::time::interval(limits::ROLL_LOOK_INTERVAL);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                looks.tick().await;
                worker.turn().await;
            }
        };
        tokio::select! {
            // A sender that is gone asks for the same.
            _ = stop.wait_for(|stop| *stop) => {}
            _ = ended.ended() => {}
            () = work => {}
        }
    }
}

/// One shard's jobs.
#[derive(Debug)]
struct Worker {
    node: Embedded,
    shard: Shard,
    at: ShardStore,
    jobs: StdRng,
    /// False at the start and after a failure: the store may be ahead of the shard's index.
    caught_up: bool,
    rolls: Job,
    sweeps: Job,
}

impl Worker {
    fn new(node: Embedded, shard: Shard, at: ShardStore, seed: u64) -> Self {
        let (rolls, sweeps) = (Job::new("roll"), Job::new("sweep"));
        Self { node, shard, at, jobs: StdRng::seed_from_u64(seed), caught_up: false, rolls, sweeps }
    }

    async fn turn(&mut self) {
        if self.rolls.is_due() {
            let done = self.roll().await;
            self.caught_up = done.is_ok();
            self.rolls.settle(&self.at, done, Duration::ZERO);
        }
        if self.node.mode == Mode::Whole && self.sweeps.is_due() {
            let done = self.sweep().await;
            self.sweeps.settle(&self.at, done, limits::SWEEP_INTERVAL);
        }
    }

    async fn roll(&mut self) -> Result<(), CompactorError> {
        let policy = self.node.mode.policy();
        if !self.caught_up {
            let manifest = self.catch_up().await?;
            // Each start leaves an EPOCH: without this, starts in a loop would take longer and longer.
            let policy = Policy { objects: self.node.mode.objects_at_start(), ..policy };
            if manifest.is_some_and(|manifest| self.path_objects(&manifest) >= policy.objects) {
                self.roll_once(&policy).await?;
            }
        }
        while self.is_due(&policy) {
            if !self.roll_once(&policy).await? {
                self.catch_up().await?;
                break;
            }
        }
        Ok(())
    }

    fn is_due(&self, policy: &Policy) -> bool {
        let backlog = self.shard.index().backlog();
        match self.node.mode {
            Mode::Whole => policy.is_due(&backlog, self.node.clock.now()),
            Mode::SelfRoll => backlog.objects >= policy.objects,
        }
    }

    async fn roll_once(&mut self, policy: &Policy) -> Result<bool, CompactorError> {
        let rolling = Arc::clone(&self.node.rolling);
        let _place = rolling.acquire_owned().await.expect("the semaphore is never closed");
        match roll::roll(&self.at, policy, self.node.clock.now(), &mut self.jobs).await? {
            None => Ok(false),
            Some(commit) => {
                tracing::debug!(shard.id = %self.at.shard, floor = %commit.manifest.floor, "rolled");
                self.finish(commit).await?;
                Ok(true)
            }
        }
    }

    async fn sweep(&self) -> Result<(), CompactorError> {
        match gc::sweep(&self.at, self.node.clock.now()).await? {
            Some(commit) => self.finish(commit).await,
            None => Ok(()),
        }
    }

    /// Lets the readers of this node go over to a manifest, then deletes what it no longer needs, if this is its task.
    async fn finish(&self, commit: Commit) -> Result<(), CompactorError> {
        let Commit { manifest, garbage } = commit;
        self.shard.adopt(manifest).await?;
        match self.node.mode {
            Mode::Whole => garbage.delete(&self.at).await,
            Mode::SelfRoll => Ok(()),
        }
    }

    async fn catch_up(&self) -> Result<Option<Manifest>, CompactorError> {
        let Some((manifest, _)) = roll::read_manifest(&self.at).await? else { return Ok(None) };
        self.shard.adopt(manifest.clone()).await?;
        Ok(Some(manifest))
    }

    /// Counts the objects on the path above a manifest's floor: the index knows the DATA, and each EPOCH has raised
    /// the epoch by one.
    fn path_objects(&self, manifest: &Manifest) -> usize {
        let epochs = self.shard.epoch().get().saturating_sub(manifest.epoch_at_floor.get());
        self.shard.index().backlog().objects + usize::try_from(epochs).unwrap_or(usize::MAX)
    }
}

/// When something is done next.
#[derive(Debug)]
struct Job {
    name: &'static str,
    due: Instant,
    /// The pause after the last attempt, if it failed.
    failing: Option<Duration>,
}

impl Job {
    fn new(name: &'static str) -> Self {
        Self { name, due: Instant::now(), failing: None }
    }

    fn is_due(&self) -> bool {
        self.due <= Instant::now()
    }

    fn settle(&mut self, at: &ShardStore, done: Result<(), CompactorError>, interval: Duration) {
        let pause = match done {
            Ok(()) => {
                if self.failing.take().is_some() {
                    tracing::info!(shard.id = %at.shard, job = self.name, "compactor works again");
                }
                interval
            }
            Err(error) => {
                if self.failing.is_none() {
                    let error: &(dyn std::error::Error + 'static) = &error;
                    tracing::error!(shard.id = %at.shard, job = self.name, error, "compactor fails; retrying");
                }
                let longer = self.failing.map_or(limits::ROLL_LOOK_INTERVAL, |pause| pause * 2);
                let pause = longer.min(limits::ROLL_BACKOFF_MAX);
                self.failing = Some(pause);
                pause
            }
        };
        self.due = Instant::now() + pause;
    }
}
