//! Every cap, with its unit and reason.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

// ---- the shard log's format: never changed for a stored shard ----

/// G: how much further than its EPOCH an epoch's first DATA lies, in WAL sequence numbers. No leader's window may
/// ever exceed it, across software versions too.
pub const EPOCH_GAP: u64 = 64;
/// span: a leader may PUT a sequence number only below its lowest unresolved one plus this. At most [`EPOCH_GAP`].
pub const WRITE_SPAN: u64 = EPOCH_GAP;
/// Bytes of a WAL object's header, and of a whole EPOCH object. DATA objects are always longer.
pub const WAL_HEADER_LEN: usize = 256;
/// How much further offsets continue after damage in synced journal frames: no lost offset is ever given out again.
pub const OFFSET_JUMP: u64 = 1 << 20;

// ---- topics ----

/// Characters in a topic name: Kafka's bound.
pub const TOPIC_NAME_LEN_MAX: usize = 249;
/// Partitions of one topic: keeps cursors short.
pub const PARTITIONS_MAX: u16 = 512;
/// Topics of a cluster: keeps `topics.json` small enough to swap whole.
pub const TOPICS_MAX: usize = 10_000;
/// Deleted topics whose data is not removed yet. Past it no topic can be deleted until compactors catch up.
pub const TOPICS_DELETED_MAX: usize = 10_000;
/// Shards of a cluster.
pub const SHARDS_MAX: u16 = 1024;

// ---- records and units ----

/// Default of `max.message.bytes`.
pub const MESSAGE_BYTES_DEFAULT: u32 = MIB as u32;
/// Upper bound of `max.message.bytes`.
pub const MESSAGE_BYTES_MAX: u32 = 4 * MIB as u32;
/// Records of one unit, which is stored all or nothing.
pub const UNIT_RECORDS_MAX: usize = 10_000;
/// Bytes of values of one unit.
pub const UNIT_BYTES_MAX: usize = 4 * MIB;
/// Bytes of one encoded record batch: a unit with its keys and headers, and room for the framing.
pub const BATCH_BYTES_MAX: usize = 32 * MIB;
/// Headers of one record.
pub const RECORD_HEADERS_MAX: usize = 256;
/// How far ahead of the node's clock a record's timestamp may be.
pub const TIMESTAMP_AHEAD_MAX: Duration = Duration::from_secs(60 * 60);
/// Size from which a batch is worth compressing.
pub const COMPRESS_BYTES_MIN: usize = 512;

// ---- dedupe ----

/// Dedupe entries kept per shard, oldest out first.
pub const DEDUPE_ENTRIES_MAX: usize = 1_000_000;
/// Bytes of memory that they take at most, in a shard's leader.
pub const DEDUPE_BYTES_MAX: usize = 117 * MIB;
/// How long a dedupe entry is kept.
pub const DEDUPE_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

// ---- the leader ----

/// WAL objects whose PUT may be under way at once.
pub const PUTS_IN_FLIGHT_MAX: usize = 4;
/// Size at which a WAL object is frozen.
pub const WAL_OBJECT_BYTES_MAX: usize = 8 * MIB;
/// Longest a batch waits for its flush on a shared store.
pub const FLUSH_LINGER: Duration = Duration::from_millis(250);
/// Longest a batch waits for its flush behind the journal, on an exclusive store.
pub const FLUSH_LINGER_EXCLUSIVE: Duration = Duration::from_secs(5);
/// Requests waiting in a shard's queue.
pub const SHARD_QUEUE_MAX: usize = 4_096;
/// Requests taken from the queue in one turn.
pub const SHARD_TURN_MAX: usize = 512;
/// Bytes accepted by a shard, not yet in the store, and in memory. Past it new appends are refused.
pub const SHARD_UNFLUSHED_BYTES_MAX: usize = 256 * MIB;
/// Bytes of them from which, on a shared store, the journal takes the place of memory. Also those of leftovers that are
/// taken from there at once.
pub const SHARD_SPILL_BYTES: usize = 64 * MIB;
/// Bytes of stored batches a shard keeps in memory for readers at the tail.
pub const SHARD_TAIL_BYTES_MAX: usize = 64 * MIB;
/// WAL objects that a leader keeps for nodes that follow. Who falls further behind reads the store.
pub const FEED_OBJECTS_MAX: usize = 256;
/// Bytes of them. No more than [`SHARD_TAIL_BYTES_MAX`], so that their batches are those that are in memory anyway.
pub const FEED_BYTES_MAX: u64 = 32 * MIB as u64;
/// Objects of the path that are read before a walk gets to them, at once: a walk takes so many for the time of one.
pub const READ_AHEAD_MAX: usize = 32;
/// Looks at the index before a fetch whose object is missing gives up.
pub const FETCH_ATTEMPTS_MAX: u32 = 5;
/// Longest an append waits for room before it is refused as overloaded.
pub const ADMISSION_WAIT_MAX: Duration = Duration::from_secs(5);
/// First pause before a PUT without an answer is sent again; doubles up to [`PUT_BACKOFF_MAX`].
pub const PUT_BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause between two PUTs of one object.
pub const PUT_BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Wait for the answer to a PUT of next to nothing before it is sent again: some servers let one hang that others take.
pub const PUT_CALL_MIN: Duration = Duration::from_secs(8);
/// Bytes in a second that a PUT is given more time for.
pub const PUT_RATE_MIN: u64 = 512 * 1024;
/// Longest wait for one answer of the store.
pub const STORE_CALL_MAX: Duration = Duration::from_secs(30);
/// Attempts of a taker before it reports that the shard cannot be led.
pub const TAKEOVER_ATTEMPTS_MAX: u32 = 64;

// ---- reading from the store ----

/// Bytes of recently read runs of batches that a node keeps in memory.
pub const CACHE_BYTES_DEFAULT: usize = 256 * MIB;
/// Lower bound of that: a quarter of it still holds the largest run twice.
pub const CACHE_BYTES_MIN: usize = 64 * MIB;
/// Bytes that are read ahead of one reader.
pub const READ_AHEAD_BYTES: usize = 16 * MIB;
/// Runs of batches that are read ahead of one reader: small ones cost a request each.
pub const READ_AHEAD_EXTENTS: usize = 32;
/// Bytes of neighbouring runs of batches that are read ahead in one request.
pub const READ_AHEAD_GET_BYTES: usize = 4 * MIB;
/// Requests of a node that read ahead at once. Past it readers fetch what they need themselves.
pub const READ_AHEAD_GETS_MAX: usize = 64;
/// The part of the cache, as its divisor, that holds what was read ahead and not yet asked for.
pub const READ_AHEAD_CACHE_SHARE: usize = 2;

// ---- registers ----

/// Compare-and-swap attempts of one change before it is reported as contended.
pub const SWAP_ATTEMPTS_MAX: u32 = 32;
/// Bytes of a manifest root.
pub const MANIFEST_BYTES_MAX: usize = 64 * KIB;
/// Epochs listed in a manifest root.
pub const MANIFEST_EPOCHS_MAX: usize = 256;
/// Partitions described by one manifest page.
pub const PAGE_PARTITIONS: u16 = 256;
/// Bytes of any register or snapshot read whole.
pub const METADATA_BYTES_MAX: usize = 128 * MIB;
/// API keys of a cluster: every node holds all of them in memory.
pub const API_KEYS_MAX: usize = 10_000;
/// Characters in the id of an API key.
pub const API_KEY_ID_LEN_MAX: usize = 64;
/// Scopes of one API key: all of them are looked at for each call.
pub const API_KEY_SCOPES_MAX: usize = 64;
/// Attempts of one swap, or of one object named by its content, before the store is reported as failing.
pub const STORE_ATTEMPTS_MAX: u32 = 6;
/// Keys of one listing. A longer one is continued after its last key.
pub const LIST_KEYS_MAX: usize = 100_000;

// ---- S3 ----

/// Longest wait for a connection to S3.
pub const S3_CONNECT_MAX: Duration = Duration::from_secs(5);
/// Times a read, a listing or a delete on S3 is sent again. Conditional writes never are.
pub const S3_READ_RETRIES_MAX: usize = 4;
/// Longest pause between two of them.
pub const S3_BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Time after which none is sent again.
pub const S3_RETRY_TIME_MAX: Duration = Duration::from_secs(10);
/// Characters of the prefix in an `s3:` URL: S3 takes names of 1,024, and those below the prefix take up to 400.
pub const S3_PREFIX_LEN_MAX: usize = 512;

// ---- the journal ----

/// Bytes of one journal file before the next is begun.
pub const JOURNAL_FILE_BYTES: u64 = 64 * MIB as u64;
/// Bytes of all journal files. Past it new appends are refused.
pub const JOURNAL_BYTES_MAX: u64 = 10 * 1024 * MIB as u64;
/// Bytes of one journal frame: one unit with its framing.
pub const JOURNAL_FRAME_BYTES_MAX: usize = 2 * BATCH_BYTES_MAX;
/// Attempts to read frames of the journal back, about 6 s, before those that cannot be read are left where they are.
pub const JOURNAL_READ_ATTEMPTS_MAX: u32 = 8;
/// Bytes of frames that wait for the journal's thread. Past it the caller waits.
pub const JOURNAL_PENDING_BYTES_MAX: usize = 64 * MIB;

// ---- nodes and leases ----

/// Pause between two beats of a node: it registers, renews its leases, and sees all others.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(2);
/// Shortest pause between two beats, however many reasons there are.
pub const BEAT_PAUSE_MIN: Duration = Duration::from_millis(200);
/// Life of a lease and of a node's entry without a beat: three beats.
pub const LEASE_TTL: Duration = Duration::from_secs(6);
/// How long a lease must have been absent, at a node that did not see it vanish, before anybody tries to lead: a leader
/// that lives has made it again by then.
pub const LEASE_ABSENT_MIN: Duration = LEASE_TTL;
/// Longest wait for the answer to a probe. Past it the probed node counts as silent.
pub const PROBE_MAX: Duration = Duration::from_secs(1);
/// Refused connections that show that a process is gone.
pub const PROBES_REFUSED: u32 = 2;
/// Pause between them, drawn anew each time up to twice as long: a listener that restarts is back by then.
pub const PROBE_PAUSE: Duration = Duration::from_millis(50);
/// Pause before a node that takes over is asked again whether it leads, while no view says so.
pub const TAKING_OVER_PAUSE: Duration = Duration::from_millis(250);
/// Answers to probes that a node keeps for each shard.
pub const PROBE_ANSWERS_MAX: usize = 8;
/// How long the answer that somebody does not lead, or none, counts as a reason to try: it may begin to lead.
pub const PROBE_DENIAL_AGE_MAX: Duration = Duration::from_secs(1);
/// How long other answers, and the mark of a node that is gone, count. A node that lives has registered anew by then.
pub const PROBE_AGE_MAX: Duration = LEASE_TTL;
/// Longest wait, drawn at random, between the decision to lead and the attempt.
pub const ACQUIRE_WAIT_MAX: Duration = Duration::from_millis(50);
/// Pause after an attempt to lead that failed, half of it drawn at random; doubles up to [`LEAD_BACKOFF_MAX`].
pub const LEAD_BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest pause between two attempts of a node to lead a shard.
pub const LEAD_BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Shards that a node takes over at once: each walks a part of its log.
pub const TAKEOVERS_MAX: usize = 16;
/// How long another node must have been the better leader, live and ready, before a shard is moved to it.
pub const MOVE_AFTER: Duration = Duration::from_secs(5);
/// Pause after a planned move that did not come off.
pub const MOVE_AGAIN_AFTER: Duration = Duration::from_secs(30);
/// Shards that a node which stops hands over at once.
pub const HANDOVERS_MAX: usize = 16;
/// How long a node that stops, and has given all away, waits until it knows who leads instead.
pub const SUCCESSORS_WAIT_MAX: Duration = Duration::from_secs(3);
/// Nodes of a cluster: every node sees all of them with each beat.
pub const NODES_MAX: usize = 256;
/// Bytes of one node's entry in the registry.
pub const NODE_BYTES_MAX: usize = 16 * KIB;
/// Bytes of the address that nodes reach each other by.
pub const ADDRESS_LEN_MAX: usize = 300;

// ---- Redis ----

/// Longest wait for one call to Redis, the connection included: less than a beat.
pub const REDIS_CALL_MAX: Duration = Duration::from_millis(1_500);
/// First pause before the connection for hints is made again; doubles up to [`REDIS_BACKOFF_MAX`].
pub const REDIS_BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two attempts.
pub const REDIS_BACKOFF_MAX: Duration = Duration::from_secs(2);
/// Pause between two questions whether a silent connection for hints still lives.
pub const REDIS_PING_INTERVAL: Duration = Duration::from_secs(5);
/// Hints that a slow receiver may be behind before it loses the oldest.
pub const HINTS_MAX: usize = 1_024;
/// Bytes of one hint. Longer ones are not ours.
pub const HINT_BYTES_MAX: usize = 128;

// ---- rolls ----

/// WAL objects above the floor that start a roll.
pub const ROLL_OBJECTS: usize = 256;
/// Bytes above the floor that start a roll.
pub const ROLL_BYTES: u64 = 64 * MIB as u64;
/// Age of the oldest WAL object above the floor that starts a roll.
pub const ROLL_AGE: Duration = Duration::from_secs(60);
/// Bytes of one footer entry of a rolled object: what a reader fetches to find one record.
pub const ROLLED_EXTENT_BYTES: usize = MIB;
/// Path objects above the floor, EPOCHs included, that start a roll when a node starts: it walks them all each time.
pub const ROLL_OBJECTS_AT_START: usize = 64;
/// WAL objects above the floor from which a leader rolls its own shard, whoever else is to do that: a takeover reads all
/// of them.
pub const SELF_ROLL_OBJECTS: usize = 1_024;
/// Pause between two looks at what could be rolled. A look costs no request.
pub const ROLL_LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Longest pause of a compactor between two attempts that fail.
pub const ROLL_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Pause between two listings of a shard in search of garbage.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Age of a rolled object or snapshot that no manifest names before it is deleted: its commit may be under way.
pub const ORPHAN_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// DELETEs under way at once.
pub const DELETES_IN_FLIGHT_MAX: usize = 16;
