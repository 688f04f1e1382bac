//! The conformance probe: does this store do what the protocol rests on?
//!
//! Some S3-compatible servers accept `If-None-Match` and `If-Match` and ignore them, so that several writers win. A
//! gateway probes its store when it starts, and refuses one that fails.

use std::fmt;

use bytes::Bytes;
use futures::future::join_all;
use object_store::path::Path;
use rand::Rng;

use super::{CreateAnswer, Operation, Revision, Store, StoreError, Swap, backoff};
use crate::error::Outcome;
use crate::limits::STORE_ATTEMPTS_MAX;

/// Writers of one race. A server that ignores conditions lets all of them through; one that checks some time before it
/// writes lets two through in most races, but one whose gap is microseconds may pass. More writers would take servers that
/// lock a key many seconds.
const RACERS: usize = 3;

/// Something every store must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Property {
    /// Of racing create-only PUTs of one name, exactly one is stored.
    CreateOnly,
    /// Of racing swaps of one content, exactly one is stored.
    CompareAndSwap,
    /// A stored object is seen by every read that starts later.
    ReadAfterWrite,
    /// A deleted object is seen by no read that starts later.
    ReadAfterDelete,
    /// A range or a suffix of an object is what was stored there.
    RangedRead,
    /// A listing that starts after a key holds all later keys and no other.
    ListStartAfter,
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreateOnly => "create-only PUT (If-None-Match: *)",
            Self::CompareAndSwap => "compare-and-swap PUT (If-Match)",
            Self::ReadAfterWrite => "read after write",
            Self::ReadAfterDelete => "read after delete",
            Self::RangedRead => "ranged and suffix GET",
            Self::ListStartAfter => "LIST with start-after",
        })
    }
}

/// A store that must not be used, or that could not be probed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The store does not keep a property the log rests on: records would be lost or repeated. Use another store.
    #[error("store cannot hold this log, it fails the check of {property}: {found}")]
    Violated {
        /// What it does not keep.
        property: Property,
        /// What was seen.
        found: String,
    },
    /// The store failed while it was probed. Nothing is known about it; try again.
    #[error("store could not be probed")]
    Store(#[from] StoreError),
}

impl Store {
    /// Checks that the store keeps every [`Property`], in a new folder with a random name in `folder`. Removes what it
    /// writes; an object that could not be removed is harmless.
    ///
    /// # Errors
    /// [`ProbeError::Violated`] names the property. [`ProbeError::Store`] says that the store failed: a retry may
    /// succeed.
    ///
    /// # Cost
    /// About 35 requests for a few bytes each.
    pub async fn probe(&self, folder: &Path, rng: &mut impl Rng) -> Result<(), ProbeError> {
        let folder = folder.clone().join(format!("{:032x}", rng.random::<u128>()));
        let probe = Probe { store: self, folder };
        let result = probe.run().await;
        let removed = probe.remove_all().await;
        result?;
        Ok(removed?)
    }
}

struct Probe<'a> {
    store: &'a Store,
    folder: Path,
}

impl Probe<'_> {
    async fn run(&self) -> Result<(), ProbeError> {
        self.create_only().await?;
        self.compare_and_swap().await?;
        self.ranged_reads().await?;
        self.start_after().await?;
        self.read_after_delete().await
    }

    async fn create_only(&self) -> Result<(), ProbeError> {
        let key = self.key("create");
        let free = self.store.get(&key).await?;
        ensure(free.is_none(), Property::ReadAfterWrite, || format!("an object nobody wrote: key={key}"))?;
        let answers = join_all((0..RACERS).map(|racer| self.create(&key, body(racer)))).await;
        let mut winners = Vec::new();
        for (racer, created) in answers.into_iter().enumerate() {
            if created? {
                winners.push(racer);
            }
        }
        let [winner] = winners[..] else {
            return violated(Property::CreateOnly, format!("winners={} of={RACERS}", winners.len()));
        };
        let stored = self.store.get(&key).await?;
        ensure(stored.is_some(), Property::ReadAfterWrite, || "a created object is not there".to_owned())?;
        ensure(stored == Some(body(winner)), Property::CreateOnly, || {
            "the winner's bytes are not there".to_owned()
        })
    }

    async fn compare_and_swap(&self) -> Result<(), ProbeError> {
        let key = self.key("register");
        let first = self.race(&key, None, 0).await?;
        let second = self.race(&key, Some(&first), RACERS).await?;
        let late = self.store.swap(&key, Some(&first), body(2 * RACERS)).await?;
        ensure(late == Swap::Conflict, Property::CompareAndSwap, || {
            "a stale revision was accepted".to_owned()
        })?;
        let current = self.store.read_register(&key).await?.map(|found| found.revision);
        ensure(current == Some(second), Property::ReadAfterWrite, || "another revision is there".to_owned())
    }

    /// Lets several writers swap one content, and returns the revision of the one that must win. The store may refuse
    /// some attempts for no reason that lasts, but not all of them, each time with the expected content there.
    async fn race(
        &self,
        key: &Path,
        expected: Option<&Revision>,
        first: usize,
    ) -> Result<Revision, ProbeError> {
        let bodies = (first..first + RACERS).map(body);
        let swaps = join_all(bodies.map(|body| self.store.swap(key, expected, body))).await;
        let mut winners = Vec::new();
        for (racer, swap) in swaps.into_iter().enumerate() {
            match swap {
                Ok(Swap::Swapped(revision)) => winners.push((first + racer, revision)),
                Ok(Swap::Conflict) => {}
                Err(StoreError::Unsettled { source: None, .. }) => {
                    let found = "the content named was there, and was not replaced".to_owned();
                    return violated(Property::CompareAndSwap, found);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let count = winners.len();
        let (Some((winner, revision)), 1) = (winners.pop(), count) else {
            return violated(Property::CompareAndSwap, format!("winners={count} of={RACERS}"));
        };
        let stored = self.store.get(key).await?;
        ensure(stored == Some(body(winner)), Property::ReadAfterWrite, || {
            "the winner's bytes are not there".to_owned()
        })?;
        Ok(revision)
    }

    async fn ranged_reads(&self) -> Result<(), ProbeError> {
        let key = self.key("ranges");
        let stored = Bytes::from_static(b"0123456789");
        self.create(&key, stored.clone()).await?;
        for range in [0..10, 2..5, 7..20, 10..20] {
            let expected = stored.slice(range.start.min(10) as usize..range.end.min(10) as usize);
            let found = self.store.get_range(&key, range.clone()).await?;
            ensure(found == Some(expected), Property::RangedRead, || {
                format!("range={}-{} found={found:?}", range.start, range.end)
            })?;
        }
        for len in [3, 20] {
            let expected = stored.slice(10 - 10.min(len as usize)..);
            let found = self.store.get_suffix(&key, len).await?;
            ensure(found == Some((expected, 10)), Property::RangedRead, || {
                format!("suffix={len} found={found:?}")
            })?;
        }
        Ok(())
    }

    async fn start_after(&self) -> Result<(), ProbeError> {
        let folder = self.key("list");
        let keys: Vec<Path> = (0..4).map(|key| folder.clone().join(format!("{key:020}"))).collect();
        for (number, key) in keys.iter().enumerate() {
            self.create(key, body(number)).await?;
        }
        for (start_after, expected) in
            [(None, &keys[..]), (Some(&keys[1]), &keys[2..]), (Some(&keys[3]), &[])]
        {
            let listed = self.store.list(&folder, start_after).await?;
            let found: Vec<&Path> = listed.iter().map(|object| &object.location).collect();
            ensure(found.iter().copied().eq(expected), Property::ListStartAfter, || {
                format!("start_after={start_after:?} found={found:?}")
            })?;
        }
        Ok(())
    }

    async fn read_after_delete(&self) -> Result<(), ProbeError> {
        let key = self.key("delete");
        self.create(&key, body(0)).await?;
        self.store.delete(&key).await?;
        let found = self.store.get(&key).await?;
        ensure(found.is_none(), Property::ReadAfterDelete, || "a deleted object is still there".to_owned())?;
        self.store.delete(&key).await?;
        let again = self.create(&key, body(1)).await?;
        ensure(again, Property::ReadAfterDelete, || "a deleted name is still taken".to_owned())
    }

    /// Creates an object: true if it is ours. An answer that settles nothing is asked for again.
    async fn create(&self, key: &Path, body: Bytes) -> Result<bool, StoreError> {
        let mut last = None;
        for attempt in 0..STORE_ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(backoff(attempt - 1)).await;
            }
            match self.store.create(key, body.clone().into()).await {
                CreateAnswer::Created => return Ok(true),
                CreateAnswer::Exists | CreateAnswer::Conflict => match self.store.get(key).await {
                    // After an attempt without an answer, one's own bytes are one's own doing.
                    Ok(Some(stored)) => return Ok(last.is_some() && stored == body),
                    Ok(None) => {}
                    Err(error) => last = Some(error),
                },
                // Such as a bucket that is not there, or not ours to write.
                CreateAnswer::Unknown(error) if error.outcome() == Outcome::NotApplied => return Err(error),
                CreateAnswer::Unknown(error) => last = Some(error),
            }
        }
        let (operation, key) = (Operation::Create, key.clone());
        Err(StoreError::Unsettled { operation, key, source: last.map(Box::new) })
    }

    async fn remove_all(&self) -> Result<(), StoreError> {
        for object in self.store.list(&self.folder, None).await? {
            self.store.delete(&object.location).await?;
        }
        Ok(())
    }

    fn key(&self, name: &str) -> Path {
        self.folder.clone().join(name)
    }
}

/// Returns bytes that no other writer of the probe writes.
fn body(writer: usize) -> Bytes {
    Bytes::from(format!("writer {writer}"))
}

fn ensure(holds: bool, property: Property, found: impl FnOnce() -> String) -> Result<(), ProbeError> {
    if holds { Ok(()) } else { violated(property, found()) }
}

fn violated<T>(property: Property, found: String) -> Result<T, ProbeError> {
    Err(ProbeError::Violated { property, found })
}
