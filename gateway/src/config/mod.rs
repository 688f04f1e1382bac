//! Settings of the node. A flag beats the environment, which beats the file, which beats the default.
//!
//! All three sources have the same names: `--data-dir`, `FOREBAY_DATA_DIR`, and `data-dir` in the TOML file. Unknown
//! flags and keys are errors. Unknown variables are not: orchestrators set some of their own, such as
//! `FOREBAY_SERVICE_HOST` for a service of that name. A variable that is empty counts as absent.

mod cluster;
mod options;
mod origins;
mod types;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use forebay_log::limits;
use forebay_log::model::NodeId;
use forebay_log::store::{S3Options, StoreUrl};

use crate::cluster::InvalidSecret;
use crate::limits::{CONNECTIONS_DEFAULT, REQUESTS_DEFAULT, STREAMS_DEFAULT};
use crate::report::ReportFormat;

pub use cluster::{Advertise, ClusterConfig, CompactorMode};
use options::Options;
pub use origins::{CorsOrigins, Origin};
pub use types::{Auth, ByteSize, LogFormat};

/// Where a node listens unless told otherwise.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
const DATA_DIR_DEFAULT: &str = "forebay-data";
/// One process on one disk gains nothing from more.
const SHARDS_DEFAULT: u16 = 1;
/// A few, so that a few nodes share the work.
const SHARDS_DEFAULT_CLUSTER: u16 = 4;

/// An event gateway over object storage: topics, partitions and offsets as REST and Server-Sent Events.
///
/// Without a command it serves: one process, everything under --data-dir.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, args_conflicts_with_subcommands = true, max_term_width = 110)]
#[command(
    after_help = "Every option can also be set as an environment variable or in the file given by --config."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Verb>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the node (the default command).
    Serve(Box<ServeArgs>),
    /// Check what a node with these options depends on: store, disk, clocks, Redis.
    ///
    /// Runs beside a node. Ends with 1 if a check fails.
    Doctor(Box<DoctorArgs>),
    /// Set up the bucket of a store on S3.
    #[command(subcommand)]
    Bucket(BucketVerb),
    /// Print the OpenAPI document.
    Openapi,
}

#[derive(Debug, Subcommand)]
enum BucketVerb {
    /// Make the bucket if it is missing, close it to the public, encrypt it, and check its lifecycle rules.
    ///
    /// Changes only what is missing, so that it can be repeated. Ends with 1 if the bucket is not fit for use.
    Init(Box<BucketInitArgs>),
}

#[derive(Debug, clap::Args)]
struct DoctorArgs {
    /// Form of the report.
    #[arg(long, value_enum, value_name = "text|json", hide_possible_values = true, default_value = "text")]
    format: ReportFormat,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, clap::Args)]
struct BucketInitArgs {
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Default, clap::Args)]
struct ServeArgs {
    /// TOML file with settings, named like the long options: listen = "127.0.0.1:8080".
    ///
    /// Options and environment variables override it; an unknown key is an error. [env: FOREBAY_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// Options from environment variables: read as if they were flags, so that both follow the same rules.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Environment {
    #[command(flatten)]
    args: ServeArgs,
}

/// What the process was asked to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Run the node.
    Serve(Box<Config>),
    /// Check what a node depends on.
    Doctor(Box<Config>, ReportFormat),
    /// Set up the bucket, or say what would be done.
    BucketInit { config: Box<Config>, dry_run: bool },
    /// Print the OpenAPI document.
    Openapi,
}

/// The checked settings of a node.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where HTTP is served.
    pub listen: SocketAddr,
    /// The node's own files: the lock, the journal, and the default store.
    pub data_dir: PathBuf,
    /// Where the log is kept.
    pub store: StoreUrl,
    /// How it is reached, if it is on S3.
    pub s3: S3Options,
    /// The node whose place this one takes, if the store still belongs to it.
    pub replace_node: Option<NodeId>,
    /// How it works with other nodes; none if it is the only one.
    pub cluster: Option<ClusterConfig>,
    /// Whether it compacts the shards that it leads.
    pub compactor: CompactorMode,
    /// Shards of the cluster; read only when the cluster is created.
    pub shards: u16,
    /// Longest wait of accepted records before they are flushed to the store.
    pub flush_linger: Duration,
    /// Most bytes that the journal takes on disk.
    pub journal_bytes: u64,
    /// Memory for what was read from the store.
    pub cache_bytes: usize,
    pub auth: Auth,
    /// Origins whose pages may call from a browser.
    pub cors_origins: CorsOrigins,
    /// Most connections at a time.
    pub max_connections: usize,
    /// Most requests being worked on at a time.
    pub max_requests: usize,
    /// Most streams open, and long polls waiting, at a time.
    pub max_streams: usize,
    pub log: LogFormat,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Wrong flags, or a request for help or the version, which is printed the same way.
    #[error("{0}")]
    Usage(#[from] clap::Error),
    /// An environment variable has a wrong value.
    #[error("environment variable {name}: {reason}")]
    Environment { name: String, reason: String },
    /// The file cannot be read.
    #[error("config file cannot be read: path={}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The file is not TOML, or has an unknown key or a wrong value.
    #[error("config file {}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    /// An option of S3 for a store elsewhere, which would be in vain.
    #[error("{option} is for a store of s3:, this one is {store}")]
    NotOnS3 { option: &'static str, store: StoreUrl },
    /// An option about other nodes where there are none.
    #[error("{option} is for one of many nodes: it needs --redis")]
    Alone { option: &'static str },
    /// The address of Redis is none. Its text may hold a password, and is not shown.
    #[error("--redis is no address of a Redis: {reason}")]
    Redis { reason: String },
    /// Other nodes would be told an address that is none.
    #[error("other nodes cannot reach {listen}: say --advertise HOST:PORT (FOREBAY_ADVERTISE)")]
    NotAdvertised { listen: SocketAddr },
    /// Other nodes would be served without a secret where everyone can knock.
    #[error(
        "refusing to serve other nodes on {listen} without a secret: everyone who reaches it could read and write \
         every topic; say --cluster-secret (FOREBAY_CLUSTER_SECRET)"
    )]
    NoSecret { listen: SocketAddr },
    /// The secret can be guessed, or cannot be typed. It is not shown.
    #[error("--cluster-secret cannot be used")]
    Secret(#[from] InvalidSecret),
    /// TLS takes all three files.
    #[error("TLS between nodes takes --cluster-tls-cert, --cluster-tls-key and --cluster-tls-ca")]
    PartOfTls,
    /// Reachable from outside, without credentials, and not on purpose.
    #[error(
        "refusing to listen on {listen} without credentials: everyone who reaches it could read and write every \
         topic; listen on a loopback address, or say --auth none (FOREBAY_AUTH=none)"
    )]
    Exposed { listen: SocketAddr },
}

impl Command {
    /// Reads the process's own arguments and environment.
    ///
    /// # Errors
    /// [`ConfigError`]. Help and version are [`ConfigError::Usage`], to be ended with [`clap::Error::exit`].
    pub fn from_process() -> Result<Self, ConfigError> {
        Self::parse(std::env::args_os(), |name| std::env::var_os(name))
    }

    /// Reads arguments, the first being the program's name, and variables.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, ConfigError> {
        let cli = Cli::try_parse_from(args)?;
        Ok(match cli.command {
            Some(Verb::Openapi) => Self::Openapi,
            Some(Verb::Serve(flags)) => Self::Serve(settings(*flags, env)?),
            Some(Verb::Doctor(args)) => Self::Doctor(settings(args.serve, env)?, args.format),
            Some(Verb::Bucket(BucketVerb::Init(args))) => {
                Self::BucketInit { config: settings(args.serve, env)?, dry_run: args.dry_run }
            }
            None => Self::Serve(settings(cli.serve, env)?),
        })
    }
}

/// Settles flags, environment and file together.
fn settings(flags: ServeArgs, env: impl Fn(&str) -> Option<OsString>) -> Result<Box<Config>, ConfigError> {
    let env = from_environment(env)?;
    let file = match flags.config.or(env.config) {
        Some(path) => from_file(&path)?,
        None => Options::default(),
    };
    Config::from_options(flags.options.or(env.options).or(file)).map(Box::new)
}

impl Config {
    fn from_options(options: Options) -> Result<Self, ConfigError> {
        let listen = options.listen.unwrap_or(LISTEN_DEFAULT);
        if options.auth.is_none() && !listen.ip().to_canonical().is_loopback() {
            return Err(ConfigError::Exposed { listen });
        }
        let data_dir = options.data_dir.clone().unwrap_or_else(|| PathBuf::from(DATA_DIR_DEFAULT));
        let store = options.store.clone().unwrap_or_else(|| StoreUrl::File(data_dir.join("store")));
        let on_s3 = matches!(store, StoreUrl::S3 { .. });
        let s3 = S3Options {
            endpoint: options.s3_endpoint.clone(),
            region: options.s3_region.clone(),
            path_style: options.s3_path_style.unwrap_or(false),
            keys: None,
        };
        let in_vain = [
            ("--s3-endpoint", s3.endpoint.is_some()),
            ("--s3-region", s3.region.is_some()),
            ("--s3-path-style", s3.path_style),
            ("--replace-node", options.replace_node.is_some()),
        ];
        if let Some((option, _)) = in_vain.into_iter().find(|(_, given)| *given && !on_s3) {
            return Err(ConfigError::NotOnS3 { option, store });
        }
        let cluster = ClusterConfig::from_options(&options, &store)?;
        let shards = if cluster.is_some() { SHARDS_DEFAULT_CLUSTER } else { SHARDS_DEFAULT };
        let linger = if on_s3 { limits::FLUSH_LINGER } else { limits::FLUSH_LINGER_EXCLUSIVE };
        Ok(Self {
            listen,
            store,
            s3,
            replace_node: options.replace_node,
            data_dir,
            cluster,
            compactor: options.compactor.unwrap_or_default(),
            shards: options.shards.map_or(shards, |shards| shards.0),
            flush_linger: options.flush_linger.map_or(linger, |linger| linger.0),
            journal_bytes: options.journal_bytes.map_or(limits::JOURNAL_BYTES_MAX, |bytes| bytes.0),
            cache_bytes: options.cache_bytes.map_or(limits::CACHE_BYTES_DEFAULT, |bytes| bytes.in_memory()),
            auth: options.auth.unwrap_or_default(),
            cors_origins: options.cors_origins.unwrap_or_default(),
            max_connections: options.max_connections.map_or(CONNECTIONS_DEFAULT, |max| max.0),
            max_requests: options.max_requests.map_or(REQUESTS_DEFAULT, |max| max.0),
            max_streams: options.max_streams.map_or(STREAMS_DEFAULT, |max| max.0),
            log: options.log.unwrap_or_default(),
        })
    }
}

/// One setting a line, named as in the file, but for secrets.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "listen = \"{}\"", self.listen)?;
        writeln!(f, "data-dir = {:?}", self.data_dir)?;
        writeln!(f, "store = {:?}", self.store.to_string())?;
        if let Some(endpoint) = &self.s3.endpoint {
            writeln!(f, "s3-endpoint = \"{endpoint}\"")?;
        }
        if let Some(region) = &self.s3.region {
            writeln!(f, "s3-region = {region:?}")?;
        }
        if self.s3.path_style {
            writeln!(f, "s3-path-style = true")?;
        }
        if let Some(node) = self.replace_node {
            writeln!(f, "replace-node = \"{node}\"")?;
        }
        cluster::write(self, f)?;
        writeln!(f, "compactor = \"{}\"", self.compactor)?;
        writeln!(f, "shards = {}", self.shards)?;
        writeln!(f, "flush-linger = \"{}\"", humantime::format_duration(self.flush_linger))?;
        writeln!(f, "journal-bytes = \"{}\"", ByteSize(self.journal_bytes))?;
        writeln!(f, "cache-bytes = \"{}\"", ByteSize(self.cache_bytes as u64))?;
        writeln!(f, "auth = \"{}\"", self.auth)?;
        writeln!(f, "cors-origins = {}", self.cors_origins)?;
        writeln!(f, "max-connections = {}", self.max_connections)?;
        writeln!(f, "max-requests = {}", self.max_requests)?;
        writeln!(f, "max-streams = {}", self.max_streams)?;
        write!(f, "log = \"{}\"", self.log)
    }
}

/// Names the variable of a flag.
fn variable(flag: &str) -> String {
    format!("FOREBAY_{}", flag.replace('-', "_").to_ascii_uppercase())
}

fn from_environment(env: impl Fn(&str) -> Option<OsString>) -> Result<ServeArgs, ConfigError> {
    let mut command = Environment::command();
    let flags: Vec<String> =
        command.get_arguments().filter_map(|arg| arg.get_long()).map(str::to_owned).collect();
    let mut args = Vec::new();
    for flag in flags {
        let name = variable(&flag);
        let Some(value) = env(&name).filter(|value| !value.is_empty()) else { continue };
        let mut arg = OsString::from(format!("--{flag}="));
        arg.push(&value);
        // One at a time first, so that the error can name the variable.
        if let Err(error) = command.try_get_matches_from_mut([&arg]) {
            let shown = (!SECRETS.contains(&flag.as_str())).then_some(value.as_os_str());
            return Err(ConfigError::Environment { name, reason: reason(&error, shown) });
        }
        args.push(arg);
    }
    let matches = command.try_get_matches_from_mut(args)?;
    Ok(Environment::from_arg_matches(&matches)?.args)
}

/// Options whose values are never shown.
const SECRETS: [&str; 2] = ["redis", "cluster-secret"];

/// Takes the cause out of an error about a flag.
fn reason(error: &clap::Error, shown: Option<&OsStr>) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    let cause = cause.unwrap_or_else(|| "invalid value".to_owned());
    match shown {
        Some(value) => format!("{cause}: value={}", value.to_string_lossy()),
        None => cause,
    }
}

fn from_file(path: &Path) -> Result<Options, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| {
        let before = error.span().map_or("", |span| text.get(..span.start).unwrap_or_default());
        let number = before.matches('\n').count();
        let line = text.lines().nth(number).unwrap_or_default().trim_start();
        // The library would quote the line.
        let is_secret = SECRETS.iter().any(|secret| line.starts_with(secret));
        let cause = if is_secret { "the value is wrong" } else { error.message() };
        ConfigError::File { path: path.to_owned(), reason: format!("line {}: {cause}", number + 1) }
    })
}

#[cfg(test)]
mod tests;
