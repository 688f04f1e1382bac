//! Every cap of the gateway, with its unit and reason. Those of the log are in `forebay_log::limits`.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

// ---- requests ----

/// Connections at a time, open streams among them; further ones wait in the system's queue.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Bytes of a request body that is not applied as it arrives.
pub const BODY_BYTES_MAX: usize = 16 * MIB;
/// Bytes of a refused body that are still read, so that the client sees the answer.
pub const DRAIN_BYTES_MAX: usize = 16 * MIB;
/// How long they are.
pub const DRAIN_WAIT_MAX: Duration = Duration::from_secs(5);
/// Bytes of a body of settings.
pub const SETTINGS_BYTES_MAX: usize = 64 * KIB;
/// Bytes of one line of NDJSON; a line is one record, so that more could never be stored.
pub const LINE_BYTES_MAX: usize = 2 * forebay_log::limits::MESSAGE_BYTES_MAX as usize;
/// Bytes of all request bodies that the node holds at once.
pub const BODIES_IN_FLIGHT_BYTES: usize = 512 * MIB;
/// Units of one request that may be on their way to the log at once.
pub const UNITS_IN_FLIGHT_MAX: usize = 4;
/// Longest a produce waits for its acknowledgement.
pub const PRODUCE_WAIT_MAX: Duration = Duration::from_secs(30);
/// What `Retry-After` says when a retry has waited in vain for its first attempt.
pub const IN_PROGRESS_RETRY_AFTER: Duration = Duration::from_secs(5);
/// Longest pause between two pieces of a request body.
pub const BODY_IDLE_MAX: Duration = Duration::from_secs(60);
/// Longest pause of a body without announced length, such as that of `tail -f`.
pub const ENDLESS_IDLE_MAX: Duration = Duration::from_secs(60 * 60);
/// Pause of such a body after which the lines read so far are stored.
pub const UNIT_PAUSE: Duration = Duration::from_millis(100);
/// Records from which a unit's share of one partition is encoded by its own request instead of its shard's leader.
pub const ENCODE_RECORDS_MIN: usize = 64;
/// Bytes from which it is.
pub const ENCODE_BYTES_MIN: usize = 16 * KIB;
/// Window of a zstd body, as a power of 2: 8 MiB, what RFC 9659 lets a sender use, and what a decoder may have to hold.
pub const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Characters of an `Idempotency-Key` or a `Producer-Id`.
pub const IDEMPOTENCY_NAME_LEN_MAX: usize = 256;
/// Characters of a content type: it is stored with the record, and is a header of answers.
pub const CONTENT_TYPE_LEN_MAX: usize = 256;
/// Characters of the name of a CloudEvents attribute. The specification advises 20.
pub const EVENT_ATTRIBUTE_NAME_LEN_MAX: usize = 128;
/// Bytes of the names and values of one event's attributes: what the specification has every intermediary forward, and
/// a bound for the headers of an answer.
pub const EVENT_ATTRIBUTES_BYTES_MAX: usize = 64 * KIB;
/// Records up to which a receipt names each record.
pub const RECEIPT_RECORDS_MAX: usize = 100;

// ---- reads ----

/// Records of a page, unless the request says otherwise.
pub const PAGE_RECORDS_DEFAULT: usize = 500;
/// Most records of a page.
pub const PAGE_RECORDS_MAX: usize = 10_000;
/// Bytes of a page, unless the request says otherwise.
pub const PAGE_BYTES_DEFAULT: usize = MIB;
/// Most bytes of a page, about: the last record may exceed it.
pub const PAGE_BYTES_MAX: usize = 16 * MIB;
/// Bytes of stored batches taken from one partition at a time.
pub const FETCH_BYTES: usize = MIB;
/// Records looked at for one page before it is answered with what was found: bounds a read with a narrow filter.
pub const PAGE_SCAN_MAX: usize = 200_000;
/// Longest long poll.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest wait for `at_least`.
pub const AT_LEAST_WAIT_MAX: Duration = Duration::from_secs(30);
/// Topics of one read.
pub const READ_TOPICS_MAX: usize = 64;
/// Filters of one read.
pub const FILTERS_MAX: usize = 16;

/// Longest a truncation waits for the store.
pub const TRUNCATE_WAIT_MAX: Duration = Duration::from_secs(30);

// ---- streams ----

/// Pause after which a silent stream gets a comment.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// What `retry:` tells an `EventSource`.
pub const SSE_RETRY: Duration = Duration::from_secs(3);
/// Bytes of one chunk of a stream, about.
pub const CHUNK_BYTES: usize = 64 * KIB;
/// Bytes of one chunk of a stream that catches up, about: a stored batch is decoded once for each chunk cut from it.
pub const REPLAY_BYTES: usize = 256 * KIB;
/// Bytes of encoded chunks that a tail ring keeps for its subscribers; who falls further behind reads from the log.
pub const RING_BYTES: usize = 4 * MIB;
/// Characters of an id that every record of a chunk carries; a longer one is sent with the last record only.
pub const SSE_ID_LEN_MAX: usize = 64;
/// Partitions above which an id cannot be as short: each takes at least 2 bytes, or 3 characters packed.
pub const SSE_ID_PARTITIONS_MAX: usize = 32;
/// Pause between two frames that only tell a client where a filter has got to.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How often an open stream looks for new partitions of its topic.
pub const PARTITIONS_REFRESH: Duration = Duration::from_secs(1);

// ---- the process ----

/// Longest a graceful stop takes.
pub const STOP_MAX: Duration = Duration::from_secs(9);
/// Topics answered on one page of the list.
pub const TOPICS_PAGE_MAX: usize = 1000;
