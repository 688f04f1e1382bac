//! Whether this node can use the store: one that cannot must not lead while others can, whatever Redis and its peers say.
//!
//! The signs are an object that the store does not take, takeovers that fail one after the other, and looks at the store
//! that fail after it could not be read. Afterwards only a look that succeeds brings the node back, and not before a pause
//! that grows each time, so that a store which fails now and then does not move shards to and fro.

use std::time::Duration;

use forebay_log::shard::ShardStore;
use forebay_log::store::CreateAnswer;
use tokio::time::{Instant, timeout};

use crate::limits;

/// What is known of the way to the store.
#[derive(Debug)]
pub(super) struct StoreHealth {
    /// Whether the node may lead, so far as the store is concerned, and since when that is so.
    usable: bool,
    since: Instant,
    /// Takeovers that failed, one after the other.
    takeovers_failed: u32,
    /// Looks that failed, one after the other.
    looks_failed: u32,
    /// The store could not be read since the last look.
    suspected: bool,
    looking: bool,
    looked_at: Option<Instant>,
    /// How often the node has withdrawn lately.
    withdrawn: u32,
}

impl StoreHealth {
    /// The store has just been opened.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            usable: true,
            since: now,
            takeovers_failed: 0,
            looks_failed: 0,
            suspected: false,
            looking: false,
            looked_at: None,
            withdrawn: 0,
        }
    }

    /// Tells whether the node may lead.
    pub(super) fn is_usable(&self) -> bool {
        self.usable
    }

    /// Takes note of a takeover.
    pub(super) fn took_over(&mut self, succeeded: bool) {
        self.takeovers_failed = if succeeded { 0 } else { self.takeovers_failed.saturating_add(1) };
    }

    /// Takes note that the store could not be read.
    pub(super) fn unread(&mut self) {
        self.suspected = true;
    }

    /// Tells whether it is time for a look at the store, which begins then.
    pub(super) fn begin_look(&mut self, now: Instant) -> bool {
        let wanted = self.suspected || !self.usable;
        let is_due = self.looked_at.is_none_or(|at| now.duration_since(at) >= limits::STORE_LOOK_PAUSE);
        let begins = wanted && is_due && !self.looking;
        if begins {
            (self.looking, self.looked_at, self.suspected) = (true, Some(now), false);
        }
        begins
    }

    /// Takes note of what a look came to.
    pub(super) fn looked(&mut self, succeeded: bool) {
        self.looking = false;
        self.looks_failed = if succeeded { 0 } else { self.looks_failed.saturating_add(1) };
    }

    /// Decides anew. `stalled` is for how long the store has not taken what waits longest.
    pub(super) fn judge(&mut self, stalled: Duration, now: Instant) {
        let lasted = now.duration_since(self.since);
        let is_stalled = stalled >= limits::STORE_STALL_MAX;
        if self.usable {
            let fails = self.takeovers_failed.max(self.looks_failed) >= limits::STORE_FAILURES_MAX;
            if is_stalled || fails {
                self.withdrawn = if lasted >= limits::STORE_CALM { 1 } else { self.withdrawn + 1 };
                // What was found before counts for nothing: the next look decides.
                (self.usable, self.since, self.looks_failed) = (false, now, 1);
                tracing::error!(
                    ?stalled,
                    takeovers.failed = self.takeovers_failed,
                    "the store cannot be used from here: the node leads nothing while others can"
                );
            }
        } else if self.looks_failed == 0 && !is_stalled && lasted >= self.pause() {
            (self.usable, self.since, self.takeovers_failed) = (true, now, 0);
            tracing::info!(after = ?lasted, "the store can be used again");
        }
    }

    /// Returns how long the node stays withdrawn at least.
    fn pause(&self) -> Duration {
        let doublings = self.withdrawn.saturating_sub(1).min(16);
        limits::STORE_PAUSE_MIN.saturating_mul(1 << doublings).min(limits::STORE_PAUSE_MAX)
    }
}

/// Looks whether the store takes an object and gives it back. It is always the same one, so that it is stored once.
///
/// # Cost
/// 1 PUT and 1 GET.
pub(super) async fn look(at: ShardStore) -> bool {
    let looks = async {
        let key = at.keys.probes().join("alive");
        match at.store.create(&key, "alive".into()).await {
            CreateAnswer::Created | CreateAnswer::Exists | CreateAnswer::Conflict => {}
            CreateAnswer::Unknown(error) => {
                tracing::debug!(%error, "the store takes nothing");
                return false;
            }
        }
        at.store.get(&key).await.is_ok()
    };
    timeout(limits::STORE_LOOK_MAX, looks).await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use forebay_log::keys::Keys;
    use forebay_log::model::{ClusterId, ShardId};
    use forebay_log::store::{Operation, Store, StoreUrl};
    use forebay_log::testing::{FaultyStore, Moment};

    use super::*;

    /// Withdraws for a stall, and returns how long it takes with looks that succeed until the node may lead again.
    fn away_for(health: &mut StoreHealth, now: &mut Instant) -> Duration {
        health.judge(limits::STORE_STALL_MAX, *now);
        assert!(!health.is_usable());
        let start = *now;
        while !health.is_usable() {
            *now += limits::STORE_LOOK_PAUSE;
            assert!(health.begin_look(*now) && !health.begin_look(*now), "one look at a time");
            health.looked(true);
            health.judge(Duration::ZERO, *now);
        }
        now.duration_since(start)
    }

    #[test]
    fn an_object_that_the_store_does_not_take_withdraws_the_node_until_a_look_succeeds() {
        let mut now = Instant::now();
        let mut health = StoreHealth::new(now);
        health.judge(limits::STORE_STALL_MAX / 2, now);
        assert!(health.is_usable() && !health.begin_look(now));
        health.judge(limits::STORE_STALL_MAX, now);
        for _ in 0..60 {
            now += limits::STORE_LOOK_PAUSE;
            assert!(health.begin_look(now));
            health.looked(false);
            health.judge(Duration::ZERO, now);
            assert!(!health.is_usable());
        }
        now += limits::STORE_LOOK_PAUSE;
        assert!(health.begin_look(now));
        health.looked(true);
        health.judge(limits::STORE_STALL_MAX, now);
        assert!(!health.is_usable(), "it still waits");
        health.judge(Duration::ZERO, now);
        assert!(health.is_usable() && !health.begin_look(now + limits::STORE_LOOK_PAUSE));
    }

    #[test]
    fn each_time_soon_after_the_last_the_node_stays_away_for_longer() {
        let mut now = Instant::now();
        let mut health = StoreHealth::new(now);
        let first = away_for(&mut health, &mut now);
        assert!(first >= limits::STORE_PAUSE_MIN && first < 2 * limits::STORE_PAUSE_MIN);
        assert!(away_for(&mut health, &mut now) >= 2 * limits::STORE_PAUSE_MIN);
        assert!(away_for(&mut health, &mut now) >= 4 * limits::STORE_PAUSE_MIN);
        now += limits::STORE_CALM;
        assert_eq!(away_for(&mut health, &mut now), first, "that was long ago");
    }

    #[test]
    fn takeovers_that_fail_one_after_the_other_withdraw_the_node() {
        let now = Instant::now();
        let mut health = StoreHealth::new(now);
        let fail = |times, health: &mut StoreHealth| {
            (0..times).for_each(|_| health.took_over(false));
            health.judge(Duration::ZERO, now);
            health.is_usable()
        };
        assert!(fail(limits::STORE_FAILURES_MAX - 1, &mut health));
        health.took_over(true);
        assert!(fail(limits::STORE_FAILURES_MAX - 1, &mut health));
        assert!(!fail(1, &mut health));
    }

    #[test]
    fn reads_that_fail_withdraw_the_node_only_if_looks_fail_too() {
        let mut now = Instant::now();
        let mut health = StoreHealth::new(now);
        let mut look = |succeeded, health: &mut StoreHealth| {
            health.unread();
            now += limits::STORE_LOOK_PAUSE;
            assert!(health.begin_look(now));
            health.looked(succeeded);
            health.judge(Duration::ZERO, now);
            health.is_usable()
        };
        for succeeded in [true, true, true, true, false, true, false, false] {
            assert!(look(succeeded, &mut health));
        }
        assert!(!look(false, &mut health));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_needs_a_store_that_takes_and_gives() {
        let faulty = FaultyStore::new(Store::open(&StoreUrl::Memory).await.unwrap().objects(), 1);
        let store = Store::with_objects(std::sync::Arc::new(faulty.clone()), false);
        let at =
            ShardStore { store, keys: Keys::new(""), cluster: ClusterId::new(1), shard: ShardId::new(0) };
        assert!(look(at.clone()).await && look(at.clone()).await);
        for operation in [Operation::Create, Operation::Get] {
            let hold = faulty.hold(operation, Moment::Request);
            assert!(!look(at.clone()).await, "{operation:?}");
            hold.release();
        }
        assert!(look(at).await);
    }
}
