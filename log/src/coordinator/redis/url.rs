//! Where Redis is, as written in a configuration: a text that may hold a password, and never shows it.

use std::fmt;
use std::str::FromStr;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};
use serde::Deserialize;

/// Where Redis is: `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS.
///
/// Neither `Display` nor `Debug` shows user or password, and no error repeats a text that may hold them.
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct RedisUrl(ConnectionInfo);

/// A text that names no Redis server. It is not repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRedisUrl {
    /// Another scheme, or none.
    #[error("redis url needs the scheme redis: or rediss:, as in redis://redis.example:6379")]
    Scheme,
    /// No host, a port that is none, or something that no URL may hold.
    #[error(
        "redis url needs a host and perhaps a port, with special characters of a password percent-encoded"
    )]
    Address,
    /// A path that is no number.
    #[error("redis url may end with the number of a database, as in redis://redis.example:6379/0")]
    Database,
    /// Parameters behind the path.
    #[error("redis url takes no parameters after ? or #")]
    Parameters,
}

impl RedisUrl {
    /// Returns what a client connects with, the password in it.
    pub fn info(&self) -> &ConnectionInfo {
        &self.0
    }
}

impl FromStr for RedisUrl {
    type Err = InvalidRedisUrl;

    fn from_str(text: &str) -> Result<Self, InvalidRedisUrl> {
        if !["redis://", "rediss://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(InvalidRedisUrl::Scheme);
        }
        let url = redis::parse_redis_url(text).ok_or(InvalidRedisUrl::Address)?;
        if url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidRedisUrl::Parameters);
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err(InvalidRedisUrl::Address);
        }
        let database = url.path().trim_start_matches('/');
        if !database.is_empty() && database.parse::<u16>().is_err() {
            return Err(InvalidRedisUrl::Database);
        }
        url.into_connection_info().map(Self).map_err(|_| InvalidRedisUrl::Address)
    }
}

impl TryFrom<String> for RedisUrl {
    type Error = InvalidRedisUrl;

    fn try_from(text: String) -> Result<Self, InvalidRedisUrl> {
        text.parse()
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if matches!(self.0.addr(), ConnectionAddr::Tcp(..)) { "redis" } else { "rediss" };
        write!(f, "{scheme}://{}/{}", self.0.addr(), self.0.redis_settings().db())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

impl PartialEq for RedisUrl {
    fn eq(&self, other: &Self) -> bool {
        let parts = |url: &Self| {
            let settings = url.0.redis_settings();
            let [user, password] =
                [settings.username(), settings.password()].map(|part| part.map(str::to_owned));
            (url.0.addr().clone(), settings.db(), user, password)
        };
        parts(self) == parts(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_server_and_never_show_a_password() {
        for (text, shown) in [
            ("redis://127.0.0.1", "redis://127.0.0.1:6379/0"),
            ("redis://cache.example:7000/3", "redis://cache.example:7000/3"),
            ("redis://:secret@cache.example", "redis://cache.example:6379/0"),
            ("rediss://user:se%40cret@cache.example:1/", "rediss://cache.example:1/0"),
        ] {
            let url: RedisUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("RedisUrl({shown})"));
        }
        let url: RedisUrl = "redis://user:se%40cret@cache.example".parse().expect("a url");
        assert_eq!(url.info().redis_settings().password(), Some("se@cret"));
        assert_ne!("redis://:a@h".parse::<RedisUrl>(), "redis://:b@h".parse());
    }

    #[test]
    fn errors_say_what_is_wrong_without_the_text() {
        use InvalidRedisUrl::*;
        for (text, error) in [
            ("", Scheme),
            ("127.0.0.1:6379", Scheme),
            ("unix:///run/redis.sock", Scheme),
            ("http://user:secret@h", Scheme),
            ("redis://", Address),
            ("redis:///0", Address),
            ("redis://:secret@", Address),
            ("redis://:secret@h:99999", Address),
            ("redis://:se%ffcret@h", Address),
            ("redis://:secret@h/db", Database),
            ("redis://:secret@h/-1", Database),
            ("rediss://:secret@h/#insecure", Parameters),
            ("redis://:secret@h/0?protocol=resp3", Parameters),
        ] {
            assert_eq!(text.parse::<RedisUrl>(), Err(error), "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
