//! From records to appends: each record gets its partition, each partition's records become one batch of a unit, and
//! each shard gets its share of the unit as one message.

mod error;
mod idempotency;
pub mod route;
#[cfg(test)]
mod tests;
mod unit;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use forebay_log::clock::Clock;
use forebay_log::error::{FormatError, Outcome};
use forebay_log::format::record_batch;
use forebay_log::model::{
    CleanupPolicy, Durability, Offset, PartitionId, Record, ShardId, Timestamp, TimestampType, Topic,
};
use forebay_log::shard::{Append, AppendError, Appended, BatchSource, Dedupe, FetchError, NewBatch};
use forebay_log::{limits as log_limits, partitioner};

use crate::limits;
use crate::shards::Shards;

use route::{Routes, Share};

pub use error::ProduceError;
pub use idempotency::{Idempotency, Progress};
pub use unit::{NewRecord, Unit};

/// How records are to be appended.
#[derive(Debug, Clone, Default)]
pub struct ProduceOptions {
    /// Instead of the topic's.
    pub durability: Option<Durability>,
    /// All records go here.
    pub partition: Option<PartitionId>,
    /// Conditional append, with [`Self::partition`].
    pub expected: Option<Offset>,
    /// Tells the request from others, so that a retry of it is recognised.
    pub idempotency: Option<Idempotency>,
}

impl ProduceOptions {
    fn is_of_producer(&self) -> bool {
        self.idempotency.is_some_and(|idempotency| idempotency.is_producer())
    }
}

/// Where one record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp.
    pub timestamp: Timestamp,
}

/// Records in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The partition.
    pub partition: PartitionId,
    /// Offset of the first.
    pub base_offset: Offset,
    /// Behind the last. Of several units there may be records of other producers in between.
    pub end_offset: Offset,
    /// How many.
    pub count: u64,
}

impl Run {
    /// Adds a later run of the same partition.
    pub fn extend(&mut self, later: Self) {
        self.base_offset = self.base_offset.min(later.base_offset);
        self.end_offset = self.end_offset.max(later.end_offset);
        self.count += later.count;
    }
}

/// An acknowledged unit.
#[derive(Debug, Default)]
pub struct Produced {
    /// Each record in the order of the request; empty for units above [`limits::RECEIPT_RECORDS_MAX`] records.
    pub records: Vec<RecordPlace>,
    /// One run per partition, in order of partitions.
    pub runs: Vec<Run>,
    /// Whether all of it was stored before.
    pub replayed: bool,
}

/// Of each record: its partition, its place among the unit's records of that partition, its timestamp.
type Places = Vec<(PartitionId, u32, Timestamp)>;

/// A unit on its way: handed to the log in order, to be awaited for its acknowledgement.
#[derive(Debug)]
pub struct Enqueued {
    shares: Vec<Share>,
    /// Why a shard did not take its share, after others had taken theirs.
    refused: Option<AppendError>,
    places: Places,
}

impl Enqueued {
    /// Waits for the acknowledgement of all shards, at most [`limits::PRODUCE_WAIT_MAX`]. Called for the units of one
    /// request in their order, one after the other: what a leader refused because it does not lead is sent again here.
    ///
    /// # Errors
    /// [`ProduceError`]; its outcome says whether a retry may duplicate.
    pub async fn acknowledged(self) -> Result<Produced, ProduceError> {
        let of_request: Option<Arc<AtomicBool>> = self.shares.iter().find_map(Share::failed);
        let acknowledged = |share: Share| share.acknowledged_within(limits::PRODUCE_WAIT_MAX);
        let answers = futures::future::join_all(self.shares.into_iter().map(acknowledged)).await;
        let mut appended: Vec<Appended> = Vec::with_capacity(answers.len());
        let mut failed = self.refused;
        for answer in answers {
            match answer {
                Ok(stored) => appended.push(stored),
                // What leaves more open says more about the whole.
                Err(error) if failed.is_none() || error.outcome() == Outcome::Unknown => failed = Some(error),
                Err(_) => {}
            }
        }
        if let Some(of_request) = of_request.filter(|_| failed.is_some()) {
            of_request.store(true, Ordering::Relaxed);
        }
        match failed {
            None => Ok(produced(&appended, &self.places)),
            Some(error) if appended.is_empty() => Err(ProduceError::Append(error)),
            Some(error) => Err(ProduceError::Partly(error)),
        }
    }
}

fn produced(appended: &[Appended], places: &Places) -> Produced {
    let mut runs: Vec<Run> = Vec::new();
    for placement in appended.iter().flat_map(|a| &a.placements) {
        let (base_offset, count) = (placement.base_offset, u64::from(placement.count));
        let (partition, end_offset) = (placement.partition.partition, base_offset.plus(count));
        runs.push(Run { partition, base_offset, end_offset, count });
    }
    runs.sort_unstable_by_key(|run| run.partition);
    let place = |(partition, nth, timestamp): &(PartitionId, u32, Timestamp)| {
        let run = runs.iter().find(|run| run.partition == *partition)?;
        let offset = run.base_offset.plus(u64::from(*nth));
        Some(RecordPlace { partition: *partition, offset, timestamp: *timestamp })
    };
    let records = places.iter().filter_map(place).collect();
    Produced { records, runs, replayed: appended.iter().all(|a| a.replayed) }
}

/// Appends records to topics.
#[derive(Debug)]
pub struct Producer {
    shards: Arc<Shards>,
    routes: Arc<Routes>,
    clock: Arc<dyn Clock>,
    sticky: AtomicU32,
}

impl Producer {
    /// Appends over these ways; reads these shards for what is answered again.
    pub fn new(shards: Arc<Shards>, routes: Arc<Routes>, clock: Arc<dyn Clock>) -> Self {
        Self { shards, routes, clock, sticky: AtomicU32::new(0) }
    }

    /// Chooses the partition for the keyless records of one request.
    pub fn sticky_partition(&self, topic: &Topic, options: &ProduceOptions) -> PartitionId {
        if let Some(idempotency) = options.idempotency {
            return partitioner::partition_for_id(idempotency.id(), topic.partitions);
        }
        let turn = self.sticky.fetch_add(1, Ordering::Relaxed) % u32::from(topic.partitions.max(1));
        PartitionId::new(u16::try_from(turn).expect("a remainder of a u16 fits in a u16"))
    }

    /// Returns the latest timestamp that a record may have now.
    pub fn latest_timestamp(&self) -> Timestamp {
        latest_timestamp(self.clock.now())
    }

    /// Hands one unit to the log. Units of one request are handed over in their order, with the same progress.
    ///
    /// # Errors
    /// [`ProduceError`]; nothing is stored.
    ///
    /// # Cancel safety
    /// Dropped before it returns, some shards may have taken their share.
    pub async fn enqueue(
        &self,
        topic: &Topic,
        unit: Unit,
        sticky: PartitionId,
        progress: &mut Progress,
        options: &ProduceOptions,
    ) -> Result<Enqueued, ProduceError> {
        if progress.units == 0 && self.routes.refuses() {
            return Err(AppendError::Draining.into());
        }
        let level = options.durability.unwrap_or(topic.settings.durability);
        let records = u32::try_from(unit.len()).unwrap_or(u32::MAX);
        let body_hash = options.idempotency.map(|_| unit.body_hash());
        let Partitioned { by_partition, places } = self.partition(topic, unit, sticky, progress, options)?;
        let first = by_partition.first().map(|(partition, _)| *partition);
        let dedupe = body_hash.and_then(|body_hash| name(options, progress, first?, body_hash));
        let mut by_shard: BTreeMap<ShardId, Append> = BTreeMap::new();
        for (partition, records) in by_partition {
            let batch = NewBatch {
                partition: topic.partition(partition),
                source: source(topic, records)?,
                expected: options.expected,
            };
            let share = by_shard.entry(topic.shard_of(partition));
            share.or_insert_with(|| Append { batches: Vec::new(), dedupe, level }).batches.push(batch);
        }
        // Before any shard takes its share, so that the unit is refused as a whole.
        by_shard.values().try_for_each(Append::check)?;
        progress.units += 1;
        progress.records = progress.records.wrapping_add(records);
        progress.partition = first.filter(|_| options.is_of_producer());
        let mut shares = Vec::with_capacity(by_shard.len());
        for (shard, share) in by_shard {
            match self.routes.enqueue(shard, share, &mut progress.lanes).await {
                Ok(share) => shares.push(share),
                Err(error) if shares.is_empty() => return Err(error.into()),
                Err(error) => return Ok(Enqueued { shares, refused: Some(error), places }),
            }
        }
        Ok(Enqueued { shares, refused: None, places })
    }

    /// Gives the records of a replayed unit the timestamps they were stored with, so that a retry gets the first answer
    /// again. What cannot be read any more keeps the retry's own.
    pub async fn recall_timestamps(&self, topic: &Topic, produced: &mut Produced) {
        let mut stored: HashMap<(PartitionId, Offset), Timestamp> = HashMap::new();
        if !produced.records.is_empty() {
            for run in &produced.runs {
                if let Err(error) = self.read_timestamps(topic, run, &mut stored).await {
                    tracing::debug!(error = %error, "the records of a replayed unit cannot be read");
                }
            }
        }
        for place in &mut produced.records {
            let known = stored.get(&(place.partition, place.offset));
            place.timestamp = known.copied().unwrap_or(place.timestamp);
        }
    }

    async fn read_timestamps(
        &self,
        topic: &Topic,
        run: &Run,
        stored: &mut HashMap<(PartitionId, Offset), Timestamp>,
    ) -> Result<(), FetchError> {
        let mut at = run.base_offset;
        while at < run.end_offset {
            let Some(fetch) = self.shards.fetch(topic, run.partition, at).await? else { return Ok(()) };
            let fetched = &fetch.fetched;
            for batch in &fetched.batches {
                for record in batch.records()? {
                    let record = record?;
                    if (run.base_offset..run.end_offset).contains(&record.offset) {
                        stored.insert((run.partition, record.offset), record.timestamp);
                    }
                }
            }
            if fetched.next <= at {
                break;
            }
            at = fetched.next;
        }
        Ok(())
    }

    /// Checks the records and gives each its partition.
    fn partition(
        &self,
        topic: &Topic,
        unit: Unit,
        sticky: PartitionId,
        progress: &Progress,
        options: &ProduceOptions,
    ) -> Result<Partitioned, ProduceError> {
        let now = self.clock.now();
        let names_each = unit.len() <= limits::RECEIPT_RECORDS_MAX;
        let mut places = Vec::with_capacity(if names_each { unit.len() } else { 0 });
        let mut by_partition: Vec<(PartitionId, Vec<Record>)> = Vec::new();
        let mut slots: HashMap<PartitionId, usize> = HashMap::new();
        for (index, new) in unit.into_records().into_iter().enumerate() {
            let NewRecord { mut record, partition: named } = new;
            check(topic, &mut record, index, now)?;
            let partition = match (agreed(options.partition, named, index)?, &record.key) {
                (Some(partition), _) => partition,
                (None, Some(key)) => partitioner::partition_for_key(key, topic.partitions),
                (None, None) => sticky,
            };
            if partition.get() >= topic.partitions {
                let partitions = topic.partitions;
                return Err(ProduceError::Partition { index, partition: partition.get(), partitions });
            }
            let first = progress.partition.or(by_partition.first().map(|(first, _)| *first));
            if options.is_of_producer() && first.is_some_and(|first| first != partition) {
                return Err(ProduceError::SeveralPartitions { index });
            }
            let slot = *slots.entry(partition).or_insert_with(|| {
                by_partition.push((partition, Vec::new()));
                by_partition.len() - 1
            });
            let records = &mut by_partition[slot].1;
            if names_each {
                places.push((partition, u32::try_from(records.len()).unwrap_or(u32::MAX), record.timestamp));
            }
            records.push(record);
        }
        Ok(Partitioned { by_partition, places })
    }
}

/// Names a unit whose first record goes to this partition. Of a producer all records do.
fn name(
    options: &ProduceOptions,
    progress: &Progress,
    partition: PartitionId,
    body_hash: u64,
) -> Option<Dedupe> {
    Some(match options.idempotency? {
        Idempotency::Request { id } => {
            Dedupe { id, producer_epoch: None, first_sequence: progress.units, body_hash }
        }
        Idempotency::Producer { id, epoch, sequence } => Dedupe {
            id: idempotency::id_in_partition(id, partition),
            producer_epoch: Some(epoch),
            first_sequence: sequence.wrapping_add(progress.records),
            body_hash,
        },
    })
}

/// A unit's records by partition, each partition's in the order of the request.
#[derive(Debug)]
struct Partitioned {
    by_partition: Vec<(PartitionId, Vec<Record>)>,
    places: Places,
}

/// Settles which partition request and record name together.
fn agreed(
    of_request: Option<PartitionId>,
    of_record: Option<PartitionId>,
    index: usize,
) -> Result<Option<PartitionId>, ProduceError> {
    match (of_request, of_record) {
        (Some(partition), Some(named)) if partition != named => {
            Err(ProduceError::OtherPartition { index, named: named.get(), partition: partition.get() })
        }
        (of_request, of_record) => Ok(of_request.or(of_record)),
    }
}

/// Checks one record against the topic's settings and stamps it.
fn check(topic: &Topic, record: &mut Record, index: usize, now: Timestamp) -> Result<(), ProduceError> {
    let settings = &topic.settings;
    let (size, limit) = (record.size_bytes(), settings.max_message_bytes as usize);
    if size > limit {
        return Err(ProduceError::RecordTooLarge { index, size, limit });
    }
    if settings.cleanup_policy != CleanupPolicy::Delete && record.key.is_none() {
        return Err(ProduceError::KeyMissing { index });
    }
    if settings.message_timestamp_type == TimestampType::LogAppendTime || record.timestamp == Timestamp::MIN {
        record.timestamp = now;
    }
    if record.timestamp > latest_timestamp(now) {
        return Err(ProduceError::TimestampAhead { index });
    }
    Ok(())
}

fn latest_timestamp(now: Timestamp) -> Timestamp {
    let ahead = i64::try_from(log_limits::TIMESTAMP_AHEAD_MAX.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(now.as_millis().saturating_add(ahead))
}

/// Encodes many records here; few are left to the leader, which puts them into one batch with those of others.
fn source(topic: &Topic, records: Vec<Record>) -> Result<BatchSource, FormatError> {
    let compression = topic.settings.compression_type;
    let timestamp_type = topic.settings.message_timestamp_type;
    let size: usize = records.iter().map(Record::size_bytes).sum();
    if records.len() < limits::ENCODE_RECORDS_MIN && size < limits::ENCODE_BYTES_MIN {
        return Ok(BatchSource::Records { records, compression, timestamp_type });
    }
    Ok(BatchSource::Encoded(record_batch::encode(&records, compression, timestamp_type)?))
}
