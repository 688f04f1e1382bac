//! Settings of a node that works with others: where Redis is, and how nodes reach each other.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use forebay_log::coordinator::RedisUrl;
use forebay_log::store::StoreUrl;
use serde::Deserialize;

use crate::cluster::{PeerTls, Secret};

use super::options::Options;
use super::types::InvalidValue;
use super::{Config, ConfigError};

/// Where nodes reach each other unless told otherwise: any free port, for nodes that share a machine.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const ADVERTISE_LEN_MAX: usize = 255 + 1 + 5;

/// How this node works with others.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterConfig {
    /// Who coordinates.
    pub redis: RedisUrl,
    /// Where other nodes are served.
    pub listen: SocketAddr,
    /// Where other nodes reach this one, if not there.
    pub advertise: Option<Advertise>,
    /// What nodes of the cluster know.
    pub secret: Option<Secret>,
    /// How they recognise each other on a network that others share.
    pub tls: Option<PeerTls>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(super) struct Hidden(String);

impl Hidden {
    /// Returns the text, to be handed to whom it is for.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Hidden {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hidden")
    }
}

/// Whether a node compacts the shards it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompactorMode {
    /// It rolls and deletes.
    #[default]
    Embedded,
    /// It rolls only what would make a takeover long, and deletes nothing.
    Off,
}

impl fmt::Display for CompactorMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Embedded => "embedded",
            Self::Off => "off",
        })
    }
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Advertise(String);

impl Advertise {
    /// Returns it as it is written: `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Advertise {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let parts = text.rsplit_once(':');
        let port = parts.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0);
        let host = parts.map(|(host, _)| host).filter(|host| !host.is_empty());
        let of_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        match (host, port) {
            (Some(host), Some(_)) if host.chars().all(of_host) && text.len() <= ADVERTISE_LEN_MAX => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(InvalidValue::new("must be a host and a port, such as 10.0.0.7:7070")),
        }
    }
}

impl TryFrom<String> for Advertise {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

impl ClusterConfig {
    /// Takes what the options say of other nodes; none without `--redis`.
    pub(super) fn from_options(options: &Options, store: &StoreUrl) -> Result<Option<Self>, ConfigError> {
        let given = [
            ("--cluster-listen", options.cluster_listen.is_some()),
            ("--advertise", options.advertise.is_some()),
            ("--cluster-secret", options.cluster_secret.is_some()),
            ("--cluster-tls-cert", options.cluster_tls_cert.is_some()),
            ("--cluster-tls-key", options.cluster_tls_key.is_some()),
            ("--cluster-tls-ca", options.cluster_tls_ca.is_some()),
        ];
        let Some(redis) = &options.redis else {
            return match given.into_iter().find(|(_, given)| *given) {
                Some((option, _)) => Err(ConfigError::Alone { option }),
                None => Ok(None),
            };
        };
        if !matches!(store, StoreUrl::S3 { .. }) {
            return Err(ConfigError::NotOnS3 { option: "--redis", store: store.clone() });
        }
        let redis: RedisUrl =
            redis.reveal().parse().map_err(|error| ConfigError::Redis { reason: format!("{error}") })?;
        let listen = options.cluster_listen.unwrap_or(LISTEN_DEFAULT);
        if listen.ip().is_unspecified() && options.advertise.is_none() {
            return Err(ConfigError::NotAdvertised { listen });
        }
        let secret = options.cluster_secret.as_ref().map(|secret| secret.reveal().parse()).transpose()?;
        if secret.is_none() && !listen.ip().to_canonical().is_loopback() {
            return Err(ConfigError::NoSecret { listen });
        }
        let advertise = options.advertise.clone();
        Ok(Some(Self { redis, listen, advertise, secret, tls: tls(options)? }))
    }
}

fn tls(options: &Options) -> Result<Option<PeerTls>, ConfigError> {
    match (&options.cluster_tls_cert, &options.cluster_tls_key, &options.cluster_tls_ca) {
        (None, None, None) => Ok(None),
        (Some(certificate), Some(key), Some(authority)) => Ok(Some(PeerTls {
            certificate: certificate.clone(),
            key: key.clone(),
            authority: authority.clone(),
        })),
        _ => Err(ConfigError::PartOfTls),
    }
}

/// Writes the settings, but for the secret.
pub(super) fn write(config: &Config, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(cluster) = &config.cluster else { return Ok(()) };
    writeln!(f, "redis = {:?}", cluster.redis.to_string())?;
    writeln!(f, "cluster-listen = \"{}\"", cluster.listen)?;
    if let Some(advertise) = &cluster.advertise {
        writeln!(f, "advertise = \"{}\"", advertise.as_str())?;
    }
    if let Some(tls) = &cluster.tls {
        writeln!(f, "cluster-tls-cert = {:?}", tls.certificate)?;
        writeln!(f, "cluster-tls-key = {:?}", tls.key)?;
        writeln!(f, "cluster-tls-ca = {:?}", tls.authority)?;
    }
    Ok(())
}
