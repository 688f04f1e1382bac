//! Registers: compare-and-swap of one object's content.
//!
//! A register's body carries its own version number, so two attempts never write the same bytes. That is how an
//! attempt whose answer was lost is recognised: its own body is there.

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use object_store::path::Path;
use object_store::{Error as Below, GetOptions, ObjectMeta, PutMode, PutResult, UpdateVersion};

use super::{Operation, Store, StoreError, backoff};
use crate::error::Outcome;
use crate::limits::{METADATA_BYTES_MAX, STORE_ATTEMPTS_MAX};

/// Names one content of one register: the store's ETag and version, or a content tag where the store has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    e_tag: Option<String>,
    version: Option<String>,
}

impl Revision {
    fn of(e_tag: Option<String>, version: Option<String>, body: &[u8]) -> Self {
        if e_tag.is_none() && version.is_none() {
            return Self { e_tag: Some(content_tag(body)), version: None };
        }
        Self { e_tag, version }
    }

    fn of_object(meta: ObjectMeta, body: &[u8]) -> Self {
        Self::of(meta.e_tag, meta.version, body)
    }

    fn of_put(put: PutResult, body: &[u8]) -> Self {
        Self::of(put.e_tag, put.version, body)
    }

    fn to_condition(&self) -> UpdateVersion {
        UpdateVersion { e_tag: self.e_tag.clone(), version: self.version.clone() }
    }
}

/// A register's content and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned {
    /// The content.
    pub body: Bytes,
    /// What a swap of this content must name.
    pub revision: Revision,
}

/// A register, compared with a content that the caller has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Register {
    /// It was never written.
    Absent,
    /// It holds what the caller has.
    Unchanged,
    /// It holds this.
    Changed(Versioned),
}

/// How a swap ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a conflict has changed nothing"]
pub enum Swap {
    /// The register holds the new body, or held it until somebody else swapped it; this is its revision.
    Swapped(Revision),
    /// The register held another content than expected. Nothing was changed.
    Conflict,
}

impl Store {
    /// Reads a register; `None` if it was never written.
    ///
    /// # Errors
    /// As [`Store::get`].
    ///
    /// # Cost
    /// One GET.
    pub async fn read_register(&self, key: &Path) -> Result<Option<Versioned>, StoreError> {
        let found = self.fetch(key, None).await?;
        Ok(found.map(|(meta, body)| Versioned { revision: Revision::of_object(meta, &body), body }))
    }

    /// Reads a register, but for its content where that is the one named `known`.
    ///
    /// # Errors
    /// As [`Store::get`].
    ///
    /// # Cost
    /// One GET, without a body where nothing has changed and the store has ETags.
    pub async fn read_register_if_changed(
        &self,
        key: &Path,
        known: Option<&Revision>,
    ) -> Result<Register, StoreError> {
        // A store without ETags knows no content by a content tag, and answers with the body.
        let if_none_match = known.and_then(|known| known.e_tag.clone());
        let found = self.fetch_with(key, GetOptions { if_none_match, ..GetOptions::default() }).await;
        let (meta, body) = match found {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Register::Absent),
            Err(StoreError::Failed { source: Below::NotModified { .. }, .. }) => {
                return Ok(Register::Unchanged);
            }
            Err(error) => return Err(error),
        };
        let revision = Revision::of_object(meta, &body);
        if known == Some(&revision) {
            return Ok(Register::Unchanged);
        }
        Ok(Register::Changed(Versioned { revision, body }))
    }

    /// Replaces the content named `expected`, or writes the first content if it is `None`.
    ///
    /// An attempt without an answer is sent again, which is safe: it changes nothing unless the expected content is
    /// still there. When one is refused, the register is read, and this body there means that an earlier attempt
    /// was stored.
    ///
    /// # Errors
    /// With [`Outcome::NotApplied`] the register is as it was. With [`Outcome::Unknown`] the body may be stored, now
    /// or later, or may have been stored and replaced since: read the register and decide anew. Of two writers with
    /// equal bodies both are told `Swapped`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome unknown.
    ///
    /// # Cost
    /// One PUT if the expected content is there, else one PUT and one GET; at most [`STORE_ATTEMPTS_MAX`] times as
    /// many while the store fails.
    pub async fn swap(
        &self,
        key: &Path,
        expected: Option<&Revision>,
        body: Bytes,
    ) -> Result<Swap, StoreError> {
        if body.len() > METADATA_BYTES_MAX {
            let (size, limit) = (body.len() as u64, METADATA_BYTES_MAX as u64);
            return Err(StoreError::TooLarge { operation: Operation::Swap, key: key.clone(), size, limit });
        }
        let mode = match expected {
            None => PutMode::Create,
            Some(revision) => PutMode::Update(revision.to_condition()),
        };
        // True once an attempt may have been stored without our knowing.
        let mut in_doubt = false;
        let mut last = None;
        for attempt in 0..STORE_ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(backoff(attempt - 1)).await;
            }
            match self.put(Operation::Swap, key, body.clone().into(), mode.clone()).await {
                Ok(put) => return Ok(Swap::Swapped(Revision::of_put(put, &body))),
                Err(error) if is_refusal(&error) => match self.read_register(key).await {
                    Ok(Some(current)) if current.body == body => return Ok(Swap::Swapped(current.revision)),
                    // Refused without a reason that lasts, as S3 does when two PUTs meet.
                    Ok(current) if current.as_ref().map(|found| &found.revision) == expected => {}
                    Ok(_) if in_doubt => break,
                    Ok(_) => return Ok(Swap::Conflict),
                    Err(error) => last = Some(error),
                },
                Err(error) if error.outcome() == Outcome::NotApplied && !in_doubt => return Err(error),
                Err(error) => {
                    in_doubt = true;
                    last = Some(error);
                }
            }
        }
        let (operation, key) = (Operation::Swap, key.clone());
        Err(StoreError::Unsettled { operation, key, source: last.map(Box::new) })
    }
}

/// Tells whether the store answered that the condition does not hold (412), or that two PUTs met (409).
fn is_refusal(error: &StoreError) -> bool {
    let StoreError::Failed { source, .. } = error else { return false };
    matches!(source, Below::AlreadyExists { .. } | Below::Precondition { .. } | Below::NotFound { .. })
}

/// Names a content by its length and checksum, for stores without ETags.
pub(super) fn content_tag(body: &[u8]) -> String {
    format!("{:016x}-{}", crc_fast::checksum(CrcAlgorithm::Crc64Nvme, body), body.len())
}
