//! Rolls: copies the beginning of a shard's path into one rolled object and moves the floor past it (rule C1).
//!
//! Uploads first, then one swap of the manifest that names them, so that a roll counts whole or not at all. The
//! floor being the same at the swap as at the start is what makes the reads in between true: no name on the path can
//! have been deleted.

use forebay_log::error::{ErrorKind, FormatError};
use forebay_log::format::codec::hash128;
use forebay_log::format::manifest::{Manifest, RolledRef};
use forebay_log::format::snapshot::Snapshot;
use forebay_log::format::wal_object::{EncodedObject, ObjectIdentity, ObjectKind, WalHeader};
use forebay_log::limits;
use forebay_log::model::{JobId, Nonce, Timestamp};
use forebay_log::shard::state::ShardState;
use forebay_log::shard::walk::Walk;
use forebay_log::shard::{Backlog, ShardStore};
use forebay_log::store::{Path, PutPayload, Revision, Swap};

use bytes::Bytes;
use rand::rngs::StdRng;

use crate::change::Change;
use crate::copy::{Input, copy};
use crate::error::CompactorError;
use crate::gc::{Commit, Garbage};
use crate::plan::{self, Policy};

/// Rolls once, if it is due. None when it is not, or when another compactor was faster: then nothing has changed.
///
/// Whether it is due is only known once the path was read, up to one roll's bytes of it; so ask only where a backlog
/// or a listing says so. `jobs` must never repeat what another process drew, as its numbers are part of names.
///
/// # Errors
/// [`CompactorError`]; a retry is always safe. After one at the commit the manifest may hold the result, and what it
/// no longer needs is left to a sweep.
///
/// # Cancel safety
/// Dropping the future is as harmless as an error.
///
/// # Cost
/// One GET for the manifest, for the snapshot, and for each object taken; two PUTs and one swap. In memory: what is
/// taken, once, which is about [`Policy::size_bytes`], and the state of the shard.
pub async fn roll(
    at: &ShardStore,
    policy: &Policy,
    now: Timestamp,
    jobs: &mut StdRng,
) -> Result<Option<Commit>, CompactorError> {
    let Some((manifest, revision)) = read_manifest(at).await? else { return Ok(None) };
    match prepare(at, &manifest, policy, now, JobId::random(jobs)).await {
        Ok(Some(prepared)) => commit(at, prepared, manifest, revision).await,
        Ok(None) => Ok(None),
        // What cannot be is no wonder if the floor passed us while we read.
        Err(error) if error.kind() == ErrorKind::Corrupt && has_moved(at, &manifest).await? => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads the manifest and makes sure that it is this shard's: what it says decides what is deleted.
pub(crate) async fn read_manifest(at: &ShardStore) -> Result<Option<(Manifest, Revision)>, CompactorError> {
    let Some((manifest, revision)) = at.manifest().await? else { return Ok(None) };
    if (manifest.cluster, manifest.shard) != (at.cluster, at.shard) {
        let key = at.keys.manifest(at.shard).to_string();
        let source = FormatError::Field { what: "manifest", field: "cluster or shard" };
        return Err(CompactorError::Damaged { key, source });
    }
    Ok(Some((manifest, revision)))
}

async fn has_moved(at: &ShardStore, manifest: &Manifest) -> Result<bool, CompactorError> {
    let now = read_manifest(at).await?;
    Ok(now.is_none_or(|(now, _)| now.version != manifest.version))
}

/// Everything that a roll will store.
#[derive(Debug)]
pub struct Prepared {
    /// What the commit changes in the manifest.
    pub change: Change,
    /// The rolled object; none when there was nothing to copy.
    pub object: Option<EncodedObject>,
    /// The snapshot at the new floor.
    pub snapshot: Bytes,
    /// Keys of the DATA that lies below the floor after the commit.
    pub consumed: Vec<Path>,
}

impl Prepared {
    fn rolled_key(&self, at: &ShardStore) -> Option<Path> {
        self.change.rolled.map(|reference| at.keys.rolled(at.shard, &reference))
    }
}

async fn prepare(
    at: &ShardStore,
    manifest: &Manifest,
    policy: &Policy,
    now: Timestamp,
    job: JobId,
) -> Result<Option<Prepared>, CompactorError> {
    let mut path = read_path(at, manifest, policy).await?;
    let headers: Vec<WalHeader> = path.iter().map(|input| input.header.clone()).collect();
    let Some(plan) = plan::plan(manifest, &headers, now, policy) else { return Ok(None) };
    path.truncate(plan.objects);
    let replaced = manifest.rolled[manifest.rolled.len() - plan.rolled..].to_vec();
    let mut inputs = Vec::with_capacity(replaced.len() + path.len());
    for reference in &replaced {
        inputs.push(read_rolled(at, reference).await?);
    }
    let snapshot = match manifest.snapshot {
        None => None,
        Some(hash) => {
            let missing = || CompactorError::Missing { key: at.keys.snapshot(at.shard, hash).to_string() };
            Some(at.snapshot(hash).await?.ok_or_else(missing)?)
        }
    };
    let work = Work { manifest: manifest.clone(), snapshot, replaced, inputs, path, job };
    let prepared = tokio::task::spawn_blocking(move || work.run()).await;
    prepared.map_err(|_| CompactorError::Stopped)?.map(Some)
}

/// Reads the path from the floor on, until one roll is full or the path ends.
async fn read_path(
    at: &ShardStore,
    manifest: &Manifest,
    policy: &Policy,
) -> Result<Vec<Input>, CompactorError> {
    let mut walk = Walk::from_manifest(manifest);
    let mut taken = Backlog::default();
    let mut path = Vec::new();
    while !policy.is_full(&taken) {
        let key = at.keys.wal(at.shard, walk.position());
        let Some(body) = at.store.get(&key).await? else { break };
        let input = Input::decode(key, body)?;
        walk.accept(&input.header)?;
        plan::take(&mut taken, &input.header);
        path.push(input);
    }
    Ok(path)
}

async fn read_rolled(at: &ShardStore, reference: &RolledRef) -> Result<Input, CompactorError> {
    let key = at.keys.rolled(at.shard, reference);
    let body = at.store.get(&key).await?;
    let body = body.ok_or_else(|| CompactorError::Missing { key: key.to_string() })?;
    let input = Input::decode(key, body)?;
    let WalHeader { kind, cluster, shard, seq, last_seq, .. } = input.header;
    let found = (kind, cluster, shard, seq, last_seq);
    if found != (ObjectKind::Rolled, at.cluster, at.shard, reference.first, reference.last) {
        let source = FormatError::Field { what: "rolled object", field: "identity" };
        return Err(CompactorError::Damaged { key: input.key.to_string(), source });
    }
    Ok(input)
}

/// All that a roll needs, read: the rest is computation, too long for a runtime's thread.
#[derive(Debug)]
pub struct Work {
    /// The manifest from which the roll walks.
    pub manifest: Manifest,
    /// The snapshot it names.
    pub snapshot: Option<Snapshot>,
    /// Rolled objects that are rolled together with the path: the last ones of the manifest.
    pub replaced: Vec<RolledRef>,
    /// The objects of `replaced`.
    pub inputs: Vec<Input>,
    /// The objects of the path.
    pub path: Vec<Input>,
    /// The number of the attempt.
    pub job: JobId,
}

impl Work {
    /// Walks the path once more, copies its batches and describes the change. Does no IO.
    ///
    /// # Errors
    /// [`CompactorError`]; nothing is stored.
    pub fn run(mut self) -> Result<Prepared, CompactorError> {
        let mut walk = Walk::from_manifest(&self.manifest);
        let mut state = ShardState::from_snapshot(self.snapshot.take().as_ref());
        let mut epochs = Vec::new();
        for input in self.path {
            walk.accept(&input.header)?;
            match input.header.kind {
                ObjectKind::Epoch => epochs.push(input.header),
                _ => {
                    state.apply(&input.header, &input.footer)?;
                    self.inputs.push(input);
                }
            }
        }
        let snapshot = state.to_snapshot(walk.position(), walk.append_time());
        let snapshot = snapshot.encode().map_err(CompactorError::Encode)?;
        let object = match identity(&self.manifest, &self.inputs, self.job) {
            Some(identity) => copy(identity, &self.inputs)?,
            None => None,
        };
        let rolled = object.as_ref().map(|object| RolledRef {
            first: object.header.seq,
            last: object.header.last_seq,
            job: self.job,
            size: object.len,
            append_time_max: object.header.append_time,
        });
        let consumed = self.inputs.into_iter().skip(self.replaced.len()).map(|input| input.key).collect();
        let change = Change {
            from: self.manifest.floor,
            floor: walk.position(),
            epoch_at_floor: walk.epoch(),
            append_time_at_floor: walk.append_time(),
            epochs,
            replaced: self.replaced,
            rolled,
            snapshot: hash128(&snapshot),
        };
        // A result that no manifest can name must not be uploaded, again and again.
        let next = change.apply(&self.manifest);
        next.map_or(Ok(Bytes::new()), |next| next.encode()).map_err(CompactorError::Encode)?;
        Ok(Prepared { change, object, snapshot, consumed })
    }
}

/// Returns who the rolled object is; none without inputs.
fn identity(manifest: &Manifest, inputs: &[Input], job: JobId) -> Option<ObjectIdentity> {
    let (first, last) = (&inputs.first()?.header, &inputs.last()?.header);
    Some(ObjectIdentity {
        kind: ObjectKind::Rolled,
        jump: false,
        cluster: manifest.cluster,
        shard: manifest.shard,
        epoch: last.epoch,
        seq: first.seq,
        last_seq: last.last_seq,
        nonce: Nonce::new(job.get()),
        append_time: last.append_time,
    })
}

/// Uploads what was prepared and swaps the manifest.
async fn commit(
    at: &ShardStore,
    mut prepared: Prepared,
    mut manifest: Manifest,
    mut revision: Revision,
) -> Result<Option<Commit>, CompactorError> {
    if let Err(error) = upload(at, &mut prepared).await {
        discard(at, &prepared).await;
        return Err(error);
    }
    let key = at.keys.manifest(at.shard);
    for _ in 0..limits::SWAP_ATTEMPTS_MAX {
        let Some(next) = prepared.change.apply(&manifest) else {
            discard(at, &prepared).await;
            return Ok(None);
        };
        let body = next.encode().map_err(CompactorError::Encode)?;
        match at.store.swap(&key, Some(&revision), body).await? {
            Swap::Swapped(_) => return Ok(Some(committed(at, prepared, &manifest, next))),
            Swap::Conflict => {
                let current = read_manifest(at).await?;
                (manifest, revision) =
                    current.ok_or_else(|| CompactorError::Missing { key: key.to_string() })?;
            }
        }
    }
    discard(at, &prepared).await;
    Err(CompactorError::Contended { attempts: limits::SWAP_ATTEMPTS_MAX })
}

async fn upload(at: &ShardStore, prepared: &mut Prepared) -> Result<(), CompactorError> {
    let key = prepared.rolled_key(at);
    if let (Some(key), Some(object)) = (key, prepared.object.take()) {
        at.store.create_named_by_content(&key, PutPayload::from_iter(object.parts)).await?;
    }
    let key = at.keys.snapshot(at.shard, prepared.change.snapshot);
    at.store.create_named_by_content(&key, prepared.snapshot.clone().into()).await?;
    Ok(())
}

/// Deletes the rolled object of a roll that is certainly not committed. The snapshot stays: another compactor may
/// have committed the same bytes under the same name.
async fn discard(at: &ShardStore, prepared: &Prepared) {
    let Some(key) = prepared.rolled_key(at) else { return };
    if let Err(error) = at.store.delete(&key).await {
        tracing::warn!(shard.id = %at.shard, error = &error as &dyn std::error::Error, "left a rolled object to the sweep");
    }
}

/// Names what the new manifest no longer needs: consumed DATA, but never EPOCHs; replaced rolled objects; the
/// snapshot at the old floor.
fn committed(at: &ShardStore, prepared: Prepared, before: &Manifest, manifest: Manifest) -> Commit {
    let replaced = prepared.change.replaced.iter().map(|reference| at.keys.rolled(at.shard, reference));
    let snapshot = before.snapshot.filter(|hash| manifest.snapshot != Some(*hash));
    let snapshot = snapshot.map(|hash| at.keys.snapshot(at.shard, hash));
    let keys = prepared.consumed.iter().cloned().chain(replaced).chain(snapshot).collect();
    Commit { manifest, garbage: Garbage::new(keys) }
}
