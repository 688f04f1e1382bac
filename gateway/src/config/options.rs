//! The options as one source gives them: flags, environment, or file.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use forebay_log::model::NodeId;
use forebay_log::store::{S3Endpoint, StoreUrl};

use super::cluster::{Advertise, CompactorMode, Hidden};
use super::origins::CorsOrigins;
use super::types::{Auth, ByteSize, Concurrency, Linger, LogFormat, Shards};

/// Every option, absent where the source does not set it. The names of the fields are those of the flags and keys.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Options {
    /// Address to serve HTTP on [default: 127.0.0.1:8080].
    ///
    /// An address that is not loopback also needs --auth, so that nothing is open by accident. [env: FOREBAY_LISTEN]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) listen: Option<SocketAddr>,

    /// Folder of this node's files: journal, lock, and the default store [default: ./forebay-data].
    ///
    /// Created if it is missing; locked while the node runs. [env: FOREBAY_DATA_DIR]
    #[arg(long, value_name = "FOLDER")]
    pub(super) data_dir: Option<PathBuf>,

    /// Where the log is kept: file:FOLDER, s3://BUCKET/PREFIX or memory: [default: file:DATA_DIR/store].
    ///
    /// The bucket has to exist; credentials come from AWS_ACCESS_KEY_ID and its companions, a web identity, or the
    /// metadata service of a container or an instance. memory: forgets everything at the end of the process.
    /// [env: FOREBAY_STORE]
    #[arg(long, value_name = "URL")]
    pub(super) store: Option<StoreUrl>,

    /// Server that speaks S3, for a store of s3: [default: AWS_ENDPOINT_URL, or Amazon's in the region].
    ///
    /// Plain http is spoken only where it says http://. [env: FOREBAY_S3_ENDPOINT]
    #[arg(long, value_name = "URL")]
    pub(super) s3_endpoint: Option<S3Endpoint>,

    /// Region of the bucket, for a store of s3: [default: AWS_REGION, or us-east-1].
    ///
    /// [env: FOREBAY_S3_REGION]
    #[arg(long, value_name = "REGION")]
    pub(super) s3_region: Option<String>,

    /// Names the bucket in the path of requests, not in the host name, for a store of s3: [default: false].
    ///
    /// An endpoint that is an IP address and a bucket with a dot in its name get it anyway.
    /// [env: FOREBAY_S3_PATH_STYLE]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) s3_path_style: Option<bool>,

    /// Node to take the place of, because its data folder is lost, for a store of s3: [default: none].
    ///
    /// Everything acknowledged at durability=object is in the store; what was only in the lost journal is not. Has no
    /// effect once it is done, and ends the service of a node of that name that still runs.
    /// [env: FOREBAY_REPLACE_NODE]
    #[arg(long, value_name = "NODE")]
    pub(super) replace_node: Option<NodeId>,

    /// Redis that nodes of one bucket share, redis:// or rediss://: this node is one of many [default: none, one node].
    ///
    /// It holds who is there and who leads; nothing acknowledged depends on it. One primary, no Redis Cluster. An URL with
    /// a password is better given as a variable or in the file: other users of the machine see arguments. [env: FOREBAY_REDIS]
    #[arg(long, value_name = "URL")]
    pub(super) redis: Option<Hidden>,

    /// Address where other nodes reach this one, with --redis [default: 127.0.0.1:0, for nodes of one machine].
    ///
    /// Not for clients. An address that is not loopback also needs --cluster-secret. [env: FOREBAY_CLUSTER_LISTEN]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) cluster_listen: Option<SocketAddr>,

    /// Where other nodes reach it, if that is not what it listens on, with --redis [default: --cluster-listen].
    ///
    /// [env: FOREBAY_ADVERTISE]
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) advertise: Option<Advertise>,

    /// What all nodes of the cluster know and nobody else, at least 16 characters, with --redis [default: none].
    ///
    /// Better given as a variable or in the file: other users of the machine see arguments.
    /// [env: FOREBAY_CLUSTER_SECRET]
    #[arg(long, value_name = "TEXT")]
    pub(super) cluster_secret: Option<Hidden>,

    /// Certificate of this node for TLS between nodes, PEM; with the key and the authority [default: none, no TLS].
    ///
    /// [env: FOREBAY_CLUSTER_TLS_CERT]
    #[arg(long, value_name = "FILE")]
    pub(super) cluster_tls_cert: Option<PathBuf>,

    /// Key of that certificate, PEM [default: none].
    ///
    /// [env: FOREBAY_CLUSTER_TLS_KEY]
    #[arg(long, value_name = "FILE")]
    pub(super) cluster_tls_key: Option<PathBuf>,

    /// Authority that the certificates of all nodes come from, PEM [default: none].
    ///
    /// [env: FOREBAY_CLUSTER_TLS_CA]
    #[arg(long, value_name = "FILE")]
    pub(super) cluster_tls_ca: Option<PathBuf>,

    /// Whether the node compacts the shards that it leads [default: embedded].
    ///
    /// With off it only rolls what would make a takeover long, and deletes nothing. [env: FOREBAY_COMPACTOR]
    #[arg(long, value_name = "MODE")]
    pub(super) compactor: Option<CompactorMode>,

    /// Number of shards, 1 to 1024, read only when the store is first used [default: 1; 4 with --redis].
    ///
    /// A shard has one write-ahead log: more shards write more in parallel, and more objects. [env: FOREBAY_SHARDS]
    #[arg(long, value_name = "N")]
    pub(super) shards: Option<Shards>,

    /// Longest wait of accepted records before they move to the store, 0s to 60s [default: 5s; 250ms on s3:].
    ///
    /// On s3: answers wait for it, except the first after a pause, and more than 250ms counts as 250ms; shorter means
    /// more requests. Elsewhere they wait for the journal only; shorter means a shorter journal to replay at start,
    /// longer means fewer, larger objects. [env: FOREBAY_FLUSH_LINGER]
    #[arg(long, value_name = "DURATION")]
    pub(super) flush_linger: Option<Linger>,

    /// Most that the journal takes on disk, in bytes or KiB, MiB, GiB; at least 64MiB [default: 10GiB].
    ///
    /// Past it the store acknowledges, until it has everything. [env: FOREBAY_JOURNAL_BYTES]
    #[arg(long, value_name = "SIZE")]
    pub(super) journal_bytes: Option<ByteSize>,

    /// Memory for what was read from the store, in bytes or KiB, MiB, GiB; at least 64MiB [default: 256MiB].
    ///
    /// Readers that catch up share it: what several of them want is read once, what one wants next is read ahead. More
    /// means fewer requests to the store. [env: FOREBAY_CACHE_BYTES]
    #[arg(long, value_name = "SIZE")]
    pub(super) cache_bytes: Option<ByteSize>,

    /// Who may call: none = everyone who reaches the address [default: none on loopback].
    ///
    /// Has to be said for any other address. [env: FOREBAY_AUTH]
    #[arg(long, value_name = "MODE")]
    pub(super) auth: Option<Auth>,

    /// Origins whose pages may call from a browser, separated by commas: https://app.example [default: none].
    ///
    /// Exact, as browsers send them; * allows every page. Cookies and the like are never allowed.
    /// [env: FOREBAY_CORS_ORIGINS]
    #[arg(long, value_name = "ORIGINS")]
    pub(super) cors_origins: Option<CorsOrigins>,

    /// Most connections at a time [default: 20000].
    ///
    /// Further ones are refused. Each takes a file: the limit of open files counts too. [env: FOREBAY_MAX_CONNECTIONS]
    #[arg(long, value_name = "N")]
    pub(super) max_connections: Option<Concurrency>,

    /// Most requests being worked on at a time [default: 4096].
    ///
    /// Further ones get 503 at once. Open streams and long polls that wait do not count. [env: FOREBAY_MAX_REQUESTS]
    #[arg(long, value_name = "N")]
    pub(super) max_requests: Option<Concurrency>,

    /// Most streams open, and long polls waiting, at a time [default: 16000].
    ///
    /// Further ones get 503, or an event that tells them to come back. [env: FOREBAY_MAX_STREAMS]
    #[arg(long, value_name = "N")]
    pub(super) max_streams: Option<Concurrency>,

    /// Form of the log on standard error [default: text].
    ///
    /// [env: FOREBAY_LOG]
    #[arg(long, value_name = "FORM")]
    pub(super) log: Option<LogFormat>,
}

impl Options {
    /// Takes from `other` what is absent here.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            listen: self.listen.or(other.listen),
            data_dir: self.data_dir.or(other.data_dir),
            store: self.store.or(other.store),
            s3_endpoint: self.s3_endpoint.or(other.s3_endpoint),
            s3_region: self.s3_region.or(other.s3_region),
            s3_path_style: self.s3_path_style.or(other.s3_path_style),
            replace_node: self.replace_node.or(other.replace_node),
            redis: self.redis.or(other.redis),
            cluster_listen: self.cluster_listen.or(other.cluster_listen),
            advertise: self.advertise.or(other.advertise),
            cluster_secret: self.cluster_secret.or(other.cluster_secret),
            cluster_tls_cert: self.cluster_tls_cert.or(other.cluster_tls_cert),
            cluster_tls_key: self.cluster_tls_key.or(other.cluster_tls_key),
            cluster_tls_ca: self.cluster_tls_ca.or(other.cluster_tls_ca),
            compactor: self.compactor.or(other.compactor),
            shards: self.shards.or(other.shards),
            flush_linger: self.flush_linger.or(other.flush_linger),
            journal_bytes: self.journal_bytes.or(other.journal_bytes),
            cache_bytes: self.cache_bytes.or(other.cache_bytes),
            auth: self.auth.or(other.auth),
            cors_origins: self.cors_origins.or(other.cors_origins),
            max_connections: self.max_connections.or(other.max_connections),
            max_requests: self.max_requests.or(other.max_requests),
            max_streams: self.max_streams.or(other.max_streams),
            log: self.log.or(other.log),
        }
    }
}
