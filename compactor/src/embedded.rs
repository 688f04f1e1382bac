//! The compactor inside a gateway whose store nobody else can write.
//!
//! Each second it looks at what the shards have above their floors, which is in memory; so it costs no request until
//! a roll is due. Shards are served one after the other: at most one roll's bytes are held at a time.

use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use forebay_log::clock::Clock;
use forebay_log::format::manifest::Manifest;
use forebay_log::limits;
use forebay_log::shard::{Shard, ShardStore};

use crate::error::CompactorError;
use crate::gc::{self, Commit};
use crate::plan::Policy;
use crate::roll;

/// Rolls and sweeps these shards, each in the store beside it, until `stop` turns true or its sender is gone.
///
/// A failure is logged when it begins and when it ends, and retried with a growing pause, up to
/// [`limits::ROLL_BACKOFF_MAX`]. `seed` must be drawn anew in each process: it decides names that must not repeat.
///
/// # Cancel safety
/// May be dropped at any time; what was begun is done again or swept after the next start.
pub async fn run(
    shards: Vec<Shard>,
    stores: Vec<ShardStore>,
    clock: Arc<dyn Clock>,
    seed: u64,
    mut stop: watch::Receiver<bool>,
) {
    let mut jobs = StdRng::seed_from_u64(seed);
    let pairs = shards.into_iter().zip(stores);
    let mut workers: Vec<Worker> = pairs.map(|(shard, at)| Worker::new(shard, at)).collect();
    let work = async {
        let mut looks = tokio::time::interval(limits::ROLL_LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            for worker in &mut workers {
                worker.turn(&*clock, &mut jobs).await;
            }
        }
    };
    tokio::select! {
        // A sender that is gone asks for the same.
        _ = stop.wait_for(|stop| *stop) => {}
        () = work => {}
    }
}

/// One shard's jobs.
#[derive(Debug)]
struct Worker {
    shard: Shard,
    at: ShardStore,
    /// False at the start and after a failure: the store may be ahead of the shard's index.
    caught_up: bool,
    rolls: Job,
    sweeps: Job,
}

impl Worker {
    fn new(shard: Shard, at: ShardStore) -> Self {
        Self { shard, at, caught_up: false, rolls: Job::new("roll"), sweeps: Job::new("sweep") }
    }

    async fn turn(&mut self, clock: &dyn Clock, jobs: &mut StdRng) {
        if self.rolls.is_due() {
            let done = self.roll(clock, jobs).await;
            self.caught_up = done.is_ok();
            self.rolls.settle(&self.at, done, Duration::ZERO);
        }
        if self.sweeps.is_due() {
            let done = self.sweep(clock).await;
            self.sweeps.settle(&self.at, done, limits::SWEEP_INTERVAL);
        }
    }

    async fn roll(&mut self, clock: &dyn Clock, jobs: &mut StdRng) -> Result<(), CompactorError> {
        if !self.caught_up {
            let manifest = self.catch_up().await?;
            // Each start leaves an EPOCH: without this, starts in a loop would take longer and longer.
            let policy = Policy { objects: limits::ROLL_OBJECTS_AT_START, ..Policy::default() };
            if manifest.is_some_and(|manifest| self.path_objects(&manifest) >= policy.objects) {
                self.roll_once(&policy, clock, jobs).await?;
            }
        }
        let policy = Policy::default();
        while policy.is_due(&self.shard.index().backlog(), clock.now()) {
            if !self.roll_once(&policy, clock, jobs).await? {
                self.catch_up().await?;
                break;
            }
        }
        Ok(())
    }

    async fn roll_once(
        &self,
        policy: &Policy,
        clock: &dyn Clock,
        jobs: &mut StdRng,
    ) -> Result<bool, CompactorError> {
        match roll::roll(&self.at, policy, clock.now(), jobs).await? {
            None => Ok(false),
            Some(commit) => {
                tracing::debug!(shard.id = %self.at.shard, floor = %commit.manifest.floor, "rolled");
                self.finish(commit).await?;
                Ok(true)
            }
        }
    }

    async fn sweep(&self, clock: &dyn Clock) -> Result<(), CompactorError> {
        match gc::sweep(&self.at, clock.now()).await? {
            Some(commit) => self.finish(commit).await,
            None => Ok(()),
        }
    }

    /// Lets the readers of this node go over to a manifest, then deletes what it no longer needs.
    async fn finish(&self, commit: Commit) -> Result<(), CompactorError> {
        let Commit { manifest, garbage } = commit;
        self.shard.adopt(manifest).await?;
        garbage.delete(&self.at).await
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
