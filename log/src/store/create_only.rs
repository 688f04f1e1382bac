//! Create-only objects: a name is written once.
//!
//! [`Store::create`] sends one PUT and reports the bare answer, for the shard log, whose protocol says what each
//! answer means. [`Store::create_named_by_content`] is for names that only ever hold one content, where it does not
//! matter who wrote it.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error as Below, GetOptions, PutMode, PutPayload};

use super::{Operation, Store, StoreError, backoff, bounded, failed};
use crate::error::Outcome;
use crate::limits::STORE_ATTEMPTS_MAX;

/// The answer to one create-only PUT.
#[derive(Debug)]
#[must_use = "only the answer tells whether the object is stored"]
pub enum CreateAnswer {
    /// This PUT stored the object.
    Created,
    /// The name is taken (412), perhaps by an earlier attempt with the same bytes: read it back.
    Exists,
    /// The store gave up on a race (409): nothing is known. Read the name back.
    Conflict,
    /// No answer that settles it. The object may be stored, now or later, unless
    /// [`outcome`](StoreError::outcome) says otherwise; the same PUT may be sent again.
    Unknown(StoreError),
}

impl Store {
    /// Sends one create-only PUT, with no retry, and returns its bare answer.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome unknown: the object may still be stored.
    ///
    /// # Cost
    /// One PUT. On a `file:` store two syncs (the file, its folder), and two more per folder that is made.
    pub async fn create(&self, key: &Path, body: PutPayload) -> CreateAnswer {
        match self.put(Operation::Create, key, body, PutMode::Create).await {
            Ok(_) => CreateAnswer::Created,
            Err(StoreError::Failed { source: Below::AlreadyExists { .. }, .. }) => CreateAnswer::Exists,
            Err(StoreError::Failed { source: Below::Precondition { .. }, .. }) => CreateAnswer::Conflict,
            Err(error) => CreateAnswer::Unknown(error),
        }
    }

    /// Stores an object whose name only ever holds these bytes: it does not matter whose PUT stores them.
    ///
    /// # Errors
    /// [`StoreError::Differs`] if the name holds other bytes. Otherwise the store's failure, after
    /// [`STORE_ATTEMPTS_MAX`] attempts: the object may be stored, and doing it again is always safe.
    ///
    /// # Cost
    /// One PUT; for each further attempt one PUT and, if the name is taken, one GET of the object.
    pub async fn create_named_by_content(&self, key: &Path, body: PutPayload) -> Result<(), StoreError> {
        let mut last = None;
        for attempt in 0..STORE_ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(backoff(attempt - 1)).await;
            }
            match self.create(key, body.clone()).await {
                CreateAnswer::Created => return Ok(()),
                CreateAnswer::Exists => match self.holds(key, &body).await {
                    Ok(Some(true)) => return Ok(()),
                    Ok(Some(false)) => return Err(StoreError::Differs { key: key.clone() }),
                    Ok(None) => {}
                    Err(error) => last = Some(error),
                },
                CreateAnswer::Conflict => {}
                CreateAnswer::Unknown(error) if error.outcome() == Outcome::NotApplied => return Err(error),
                CreateAnswer::Unknown(error) => last = Some(error),
            }
        }
        Err(StoreError::Unsettled {
            operation: Operation::Create,
            key: key.clone(),
            source: last.map(Box::new),
        })
    }

    /// Tells whether an object holds exactly these bytes, without keeping it in memory; `None` if it is not there.
    async fn holds(&self, key: &Path, body: &PutPayload) -> Result<Option<bool>, StoreError> {
        let failed = failed(Operation::Get, key);
        bounded(Operation::Get, key, async {
            let found = match self.objects.get_opts(key, GetOptions::default()).await {
                Err(Below::NotFound { .. }) => return Ok(None),
                found => found.map_err(&failed)?,
            };
            if found.meta.size != body.content_length() as u64 {
                return Ok(Some(false));
            }
            let mut rest: VecDeque<Bytes> = body.iter().cloned().collect();
            let mut chunks = found.into_stream();
            while let Some(chunk) = chunks.try_next().await.map_err(&failed)? {
                if !strip(&mut rest, &chunk) {
                    return Ok(Some(false));
                }
            }
            Ok(Some(rest.iter().all(Bytes::is_empty)))
        })
        .await
    }
}

/// Takes `found` off the front of `rest`, if it is there.
fn strip(rest: &mut VecDeque<Bytes>, mut found: &[u8]) -> bool {
    while !found.is_empty() {
        let Some(front) = rest.front_mut() else { return false };
        let shared = front.len().min(found.len());
        if front[..shared] != found[..shared] {
            return false;
        }
        front.advance(shared);
        found = &found[shared..];
        if front.is_empty() {
            rest.pop_front();
        }
    }
    true
}
