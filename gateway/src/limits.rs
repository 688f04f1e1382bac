//! Every cap of the gateway, with its unit and reason. Those of the log are in `forebay_log::limits`.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

// ---- connections ----

/// Connections at a time, unless configured: each takes a file and, idle, about 30 KiB.
pub const CONNECTIONS_DEFAULT: usize = 20_000;
/// Connections past the limit that are told so at a time; further ones are closed.
pub const REFUSED_CONNECTIONS_MAX: usize = 64;
/// Most that any of the limits on connections, requests and streams may be set to.
pub const CONCURRENCY_MAX: usize = 1_000_000;
/// Files that connections leave to the journal, the store and the rest of the process.
pub const OTHER_FILES_MAX: usize = 512;
/// Longest a new connection takes to say which version of HTTP it speaks.
pub const OPENING_MAX: Duration = Duration::from_secs(10);
/// Longest from an answer's end to the end of the next request's head on HTTP/1: also how long a connection is kept for
/// one. Longer than the 60 s of common load balancers, which would else reuse what is just being closed.
pub const HEAD_WAIT_MAX: Duration = Duration::from_secs(75);
/// Bytes of a request's line and headers, and of a connection's read and write buffers. The library's buffer may grow to
/// twice that before it refuses a head.
pub const HEAD_BYTES_MAX: usize = 32 * KIB;
/// Longest that a peer takes nothing of what is written to it.
pub const STALL_MAX: Duration = Duration::from_secs(90);
/// Bytes that the kernel holds of what it has not sent yet. A peer is not stalled as long as it takes half of that in
/// [`STALL_MAX`].
pub const UNSENT_BYTES: u32 = 128 * 1024;
/// How often an HTTP/2 peer is asked whether it is there.
pub const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Longest it takes to answer.
pub const PING_WAIT_MAX: Duration = Duration::from_secs(20);
/// Requests at a time on one HTTP/2 connection, open streams among them.
pub const CONNECTION_STREAMS_MAX: u32 = 128;
/// Bytes of one HTTP/2 request that may arrive before its handler takes them.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The same of all requests of one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 512 * 1024;

// ---- requests ----

/// Requests being worked on at a time, unless configured.
pub const REQUESTS_DEFAULT: usize = 4096;
/// Open streams, and long polls that wait, at a time, unless configured: fewer than connections, or subscribers could
/// lock producers out.
pub const STREAMS_DEFAULT: usize = 16_000;
/// Most that is added at random to `Retry-After`, so that those refused together do not come back together.
pub const RETRY_JITTER_SECS: u64 = 3;
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
/// Bytes of all request bodies that the node holds at once, beyond each one's [`BODY_FREE_BYTES`].
pub const BODIES_IN_FLIGHT_BYTES: usize = 512 * MIB;
/// Bytes of a body that need no room in the shared budget: small requests never wait for large ones.
pub const BODY_FREE_BYTES: usize = 64 * KIB;
/// Room that a body of lines takes at once when it needs any: what it may hold until its next unit is handed over, so
/// that no two wait for each other with half a unit in hand.
pub const BODY_UNIT_BYTES: usize = forebay_log::limits::UNIT_BYTES_MAX
    + forebay_log::limits::UNIT_RECORDS_MAX * LINE_OVERHEAD_BYTES
    + 4 * HEAD_BYTES_MAX;
/// Bytes that a line takes in memory besides its own, about.
pub const LINE_OVERHEAD_BYTES: usize = 128;
/// Pieces of a body smaller than this are copied: a piece keeps the whole buffer that it was read into.
pub const PIECE_BYTES_MIN: usize = 16 * KIB;
/// Bytes that a decoder takes, besides its window.
pub const DECODER_BYTES: usize = 256 * KIB;
/// Longest a body waits for room in the budget.
pub const BODY_ROOM_WAIT_MAX: Duration = Duration::from_secs(5);
/// While others wait for room, a body that holds some is given up if it arrives slower than this, in bytes a second, ...
pub const BODY_PACE_MIN: usize = 16 * KIB;
/// ... having had this long to begin with.
pub const BODY_PACE_GRACE: Duration = Duration::from_secs(3);
/// Longest that a body takes which is not applied as it arrives.
pub const WHOLE_BODY_WAIT_MAX: Duration = Duration::from_secs(120);
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
/// Longest that its lines wait for more of them.
pub const UNIT_AGE_MAX: Duration = Duration::from_secs(1);
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
/// Bytes from which a page is compressed for a client that asks for it: less is one packet anyway.
pub const COMPRESS_BYTES_MIN: usize = KIB;
/// Longest long poll.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest wait for `at_least`.
pub const AT_LEAST_WAIT_MAX: Duration = Duration::from_secs(30);
/// Topics of one read.
pub const READ_TOPICS_MAX: usize = 64;
/// Bytes of all pages and replayed chunks that wait for their readers, beyond each one's [`READ_FREE_BYTES`]. When they are
/// used up, pages and chunks get smaller.
pub const READS_IN_FLIGHT_BYTES: usize = 256 * MIB;
/// Bytes of a page or chunk that need no room in that budget.
pub const READ_FREE_BYTES: usize = 16 * KIB;
/// Reads that hold batches from the store at once: each up to [`FETCH_BYTES`], and one batch of it decoded. What is in
/// memory anyway is decoded a batch at a time, without a wait while it is, so that the threads bound it.
pub const FETCHES_MAX: usize = 64;
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
/// Bytes of all tail rings together: with many rings each keeps less, down to its newest chunk.
pub const RINGS_BYTES: usize = 256 * MIB;
/// Longest that a stream's client takes for one chunk; a slower one is told to come back.
pub const CHUNK_WAIT_MAX: Duration = Duration::from_secs(300);
/// How long an allowed origin's browser remembers that it is: two hours is the most that Chromium does.
pub const CORS_MAX_AGE: Duration = Duration::from_secs(7200);
/// Origins that may be allowed.
pub const CORS_ORIGINS_MAX: usize = 64;
/// Characters of an id that every record of a chunk carries; a longer one is sent with the last record only.
pub const SSE_ID_LEN_MAX: usize = 64;
/// Partitions above which an id cannot be as short: each takes at least 2 bytes, or 3 characters packed.
pub const SSE_ID_PARTITIONS_MAX: usize = 32;
/// Pause between two frames that only tell a client where a filter has got to.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How often a ring looks whether a log start has moved over what it holds.
pub const LOG_STARTS_LOOK: Duration = Duration::from_millis(500);
/// How often an open stream looks for new partitions of its topic.
pub const PARTITIONS_REFRESH: Duration = Duration::from_secs(1);

// ---- other nodes ----

/// Connections of other nodes at a time: each follows and sends appends over one connection per shard.
pub const PEER_CONNECTIONS_MAX: usize = 4096;
/// Longest from a node's connection to its first proven request, the TLS handshake included.
pub const PEER_OPENING_MAX: Duration = Duration::from_secs(5);
/// Requests at a time on one connection of a node: it uses one.
pub const PEER_STREAMS_MAX: u32 = 4;
/// Bytes of a request's or an answer's head between nodes.
pub const PEER_HEAD_BYTES_MAX: u32 = 8 * 1024;
/// Longest until another node has taken a connection, proofs included.
pub const PEER_CONNECT_MAX: Duration = Duration::from_secs(2);
/// How often the other end of a silent connection is asked whether it is there.
pub const PEER_PING_INTERVAL: Duration = Duration::from_secs(2);
/// Longest it takes to answer: past it what was sent and not answered is of unknown outcome.
pub const PEER_PING_WAIT_MAX: Duration = Duration::from_secs(5);
/// Bytes of a stream between nodes that may arrive before they are taken.
pub const PEER_WINDOW_BYTES: u32 = 1024 * 1024;
/// Bytes of one frame between nodes: a WAL object with one unit more than it was meant to hold.
pub const PEER_FRAME_BYTES_MAX: usize = 64 * MIB;
/// Bytes of small frames that are written at once; parts from [`PIECE_BYTES_MIN`] on are written as they are.
pub const PEER_WRITE_BYTES: usize = 64 * KIB;
/// Chunks of an answer that wait for the connection.
pub const PEER_CHUNKS_MAX: usize = 8;
/// Bytes of appends that one node has sent to the leader of one shard and that are not answered.
pub const FORWARD_BYTES_MAX: usize = 64 * MIB;
/// Bytes of appends that a node keeps until they are answered, to send them to another leader, should theirs end.
pub const MOVING_BYTES_MAX: usize = 512 * MIB;
/// Appends that wait to be written to one stream, and that one stream waits for at its leader: as many as
/// [`FORWARD_BYTES_MAX`] holds at 1 KiB each, the least that one counts.
pub const FORWARDS_MAX: usize = FORWARD_BYTES_MAX / KIB;
/// How much sooner the leader answers that an append took too long than its sender gives up.
pub const FORWARD_MARGIN: Duration = Duration::from_millis(250);
/// Refused appends that a stream remembers, so that what follows them in their requests is refused too.
pub const FORWARD_REFUSALS_MAX: usize = 4096;
/// First pause before an append that found no leader is sent again, unless another leader is known before; doubles ...
pub const REROUTE_PAUSE_MIN: Duration = Duration::from_millis(20);
/// ... up to this.
pub const REROUTE_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How often a leader without news tells its followers that it is there.
pub const FOLLOW_HEARTBEAT: Duration = Duration::from_millis(500);
/// Silence after which a follower takes its leader for gone.
pub const FOLLOW_SILENCE_MAX: Duration = Duration::from_secs(2);
/// Topics whose batches a follower may ask for.
pub const FOLLOW_TOPICS_MAX: usize = forebay_log::limits::TOPICS_MAX;
/// Pause between two log lines about nodes that are refused, or refuse.
pub const PEER_COMPLAINT_PAUSE: Duration = Duration::from_secs(10);
/// First pause before a leader whose stream broke is asked again, or the store that did not answer, half of it drawn by
/// chance; doubles up to [`FOLLOW_POLL`].
pub const FOLLOW_PAUSE_MIN: Duration = Duration::from_millis(100);
/// How often a node without a leader to follow looks at the store.
pub const FOLLOW_POLL: Duration = Duration::from_secs(1);
/// Pause after a log that is not what its writers write: it may be mended by hand.
pub const FOLLOW_DAMAGE_PAUSE: Duration = Duration::from_secs(60);
/// How often the root of a shard that is read here and led elsewhere is looked at.
pub const MANIFEST_LOOK: Duration = Duration::from_secs(1);
/// How often a node looks which topics have readers on it.
pub const WANTED_LOOK: Duration = Duration::from_millis(100);
/// News of keepers, and words of other nodes, that wait for the driver.
pub const TOLD_MAX: usize = 4096;
/// Orders that wait for one keeper.
pub const ORDERS_MAX: usize = 4;
/// Longest that one attempt to take a shard over takes; doubles after each that took longer, as a log may be long, ...
pub const TAKEOVER_MAX: Duration = Duration::from_secs(15);
/// ... up to this.
pub const TAKEOVER_LONG_MAX: Duration = Duration::from_secs(120);
/// How long a leader that gives its shard away stores what it took. Past it, it gives up, or keeps the shard if it may.
pub const HAND_OVER_FLUSH_MAX: Duration = Duration::from_secs(2);
/// The same on a node that stops, from when it begins to: what is left of [`STOP_MAX`] is for the rest.
pub const STOP_FLUSH_MAX: Duration = Duration::from_secs(6);
/// Age of an object that the store does not take past which the node cannot use the store: two pauses between PUTs.
pub const STORE_STALL_MAX: Duration = Duration::from_secs(12);
/// Takeovers, or looks at the store, that fail one after the other past which it cannot either.
pub const STORE_FAILURES_MAX: u32 = 3;
/// Pause between two looks at a store that could not be used.
pub const STORE_LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Longest that one takes: nodes that are cut off together are back together, before shards are moved.
pub const STORE_LOOK_MAX: Duration = Duration::from_secs(2);
/// How long a node that could not use the store leads nothing at least; doubles each time ...
pub const STORE_PAUSE_MIN: Duration = Duration::from_secs(5);
/// ... up to this, ...
pub const STORE_PAUSE_MAX: Duration = Duration::from_secs(600);
/// ... until it was well for so long.
pub const STORE_CALM: Duration = Duration::from_secs(1200);

// ---- topics on a store that several nodes use ----

/// How long a node trusts its copy of the topics after the store has last confirmed it. `DELETE` waits as long.
pub const TOPICS_TRUST: Duration = Duration::from_secs(1);
/// What `DELETE` waits beyond that: how far two machines' clocks may part in that time, with room.
pub const TOPICS_TRUST_DRIFT: Duration = Duration::from_millis(50);
/// Pause between two looks at the register of topics: at most four a second, whatever is asked for.
pub const TOPICS_LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Longest that one look takes before it has failed.
pub const TOPICS_LOOK_MAX: Duration = Duration::from_secs(5);
/// Longest that a request waits for one.
pub const TOPICS_WAIT_MAX: Duration = Duration::from_secs(2);
/// Changes of topics that wait for the store at a time.
pub const TOPIC_CHANGES_MAX: usize = 1024;
/// Most that a node waits, by chance, before it swaps the register again after another was faster.
pub const TOPICS_SWAP_PAUSE_MAX: Duration = Duration::from_millis(20);

// ---- checks and set-up ----

/// Calls of one kind that `forebay doctor` times.
pub const DOCTOR_CALLS: usize = 10;
/// Longest that one part of its checks takes; the probe takes longest, where racing writers of a name wait for seconds.
pub const DOCTOR_PART_MAX: Duration = Duration::from_secs(60);
/// Median of a PUT past which it warns: the linger, which appends at `object` wait for at most anyway.
pub const DOCTOR_PUT_WARN: Duration = forebay_log::limits::FLUSH_LINGER;
/// Median of a sync past which it warns: most disks take a tenth of that.
pub const DOCTOR_SYNC_WARN: Duration = Duration::from_millis(50);
/// Distance of clocks past which it warns, and past which it fails.
pub const DOCTOR_CLOCK_WARN: Duration = Duration::from_secs(5);
/// See [`DOCTOR_CLOCK_WARN`]: past it records are stamped wrong, and soon requests to S3 are refused.
pub const DOCTOR_CLOCK_FAIL: Duration = Duration::from_secs(60);
/// Longest that one call to set a bucket up takes, its retries among it.
pub const BUCKET_CALL_MAX: Duration = Duration::from_secs(30);
/// Days after which the parts of an unfinished upload are removed.
pub const BUCKET_ABORT_DAYS: i32 = 7;

// ---- the process ----

/// Times that a store on S3 is probed at a start before it is given up, when it fails while it is probed.
pub const PROBE_ATTEMPTS_MAX: u32 = 8;
/// Pause between two of them.
pub const PROBE_PAUSE: Duration = Duration::from_millis(250);

/// Connections that the system holds until the node takes them.
pub const BACKLOG: i32 = 1024;
/// How long one of many nodes goes on as before when it stops, not ready any more: balancers notice, its clients go
/// elsewhere, and what it leads is handed over.
pub const STOP_NOTICE: Duration = Duration::from_secs(2);
/// Longest a graceful stop takes.
pub const STOP_MAX: Duration = Duration::from_secs(9);
/// Topics answered on one page of the list.
pub const TOPICS_PAGE_MAX: usize = 1000;
