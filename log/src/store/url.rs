//! Where a store lies, as written in a configuration.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

use crate::limits::S3_PREFIX_LEN_MAX;

/// Where a store lies: `file:/var/lib/forebay`, `file:forebay-data/store`, `s3://bucket/prefix` or `memory:`.
///
/// The path of a `file:` store is taken literally, without percent-decoding. `file:///var/lib/forebay` is
/// understood too. An `s3:` URL is strict: a valid bucket name, and a prefix of letters, digits and `-_.=` between
/// single slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
#[non_exhaustive]
pub enum StoreUrl {
    /// A folder of this machine.
    File(PathBuf),
    /// The memory of this process: every opening is a new, empty store.
    Memory,
    /// A part of a bucket, on S3 or a server that speaks its protocol.
    S3 {
        /// The bucket.
        bucket: String,
        /// What the names of all objects begin with, without slashes at its ends; empty for none.
        prefix: String,
    },
}

impl StoreUrl {
    /// Returns what the names of all objects begin with; empty for none.
    pub fn prefix(&self) -> &str {
        match self {
            Self::S3 { prefix, .. } => prefix,
            Self::File(_) | Self::Memory => "",
        }
    }
}

/// A text that names no store this build can open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStoreUrl {
    /// A scheme this build does not open.
    #[error("unsupported store scheme, use file:, s3: or memory: scheme={scheme}")]
    Scheme {
        /// What stands before the colon; empty if there is no colon.
        scheme: String,
    },
    /// A `file:` URL without a path, or with a host.
    #[error("store url needs a local path, as in file:/var/lib/forebay: url={url}")]
    Path {
        /// The text.
        url: String,
    },
    /// An `s3:` URL whose bucket or prefix is none.
    #[error("store url needs a bucket and perhaps a prefix, as in s3://bucket/prefix: url={url}")]
    S3 {
        /// The text.
        url: String,
    },
    /// A text that names no S3 server.
    #[error("endpoint needs a scheme and a host, as in https://s3.example:9000: url={url}")]
    Endpoint {
        /// The text.
        url: String,
    },
    /// A `memory:` URL with something after the colon.
    #[error("store url memory: takes nothing after the colon: url={url}")]
    Memory {
        /// The text.
        url: String,
    },
}

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(url: &str) -> Result<Self, InvalidStoreUrl> {
        let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
        match scheme {
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "memory" => Err(InvalidStoreUrl::Memory { url: url.to_owned() }),
            "file" => {
                let path = match rest.strip_prefix("//") {
                    // After two slashes stands a host, which must be empty.
                    Some(path) if path.starts_with('/') => path,
                    Some(_) => "",
                    None => rest,
                };
                if path.is_empty() || path.contains('\0') {
                    return Err(InvalidStoreUrl::Path { url: url.to_owned() });
                }

                Ok(Self::File(PathBuf::from(path)))
            }
            "s3" => parse_s3(rest).ok_or_else(|| InvalidStoreUrl::S3 { url: url.to_owned() }),
            _ => Err(InvalidStoreUrl::Scheme { scheme: scheme.to_owned() }),
        }
    }
}

/// Reads what follows `s3:`.
fn parse_s3(rest: &str) -> Option<StoreUrl> {
    let place = rest.strip_prefix("//")?;
    let place = place.strip_suffix('/').unwrap_or(place);
    let (bucket, prefix) =
        place.split_once('/').map_or((place, None), |(bucket, prefix)| (bucket, Some(prefix)));
    let prefix_is_valid = prefix
        .is_none_or(|prefix| prefix.len() <= S3_PREFIX_LEN_MAX && prefix.split('/').all(is_prefix_part));
    (is_bucket(bucket) && prefix_is_valid)
        .then(|| StoreUrl::S3 { bucket: bucket.to_owned(), prefix: prefix.unwrap_or_default().to_owned() })
}

/// Tells whether S3 takes this name: lower case, and safe in a host name.
fn is_bucket(name: &str) -> bool {
    let is_outer = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (3..=63).contains(&bytes.len())
        && bytes.iter().all(|byte| is_outer(*byte) || b"-.".contains(byte))
        && bytes.first().is_some_and(|first| is_outer(*first))
        && bytes.last().is_some_and(|last| is_outer(*last))
        && !name.contains("..")
}

/// Tells whether this may stand between two slashes of a prefix: nothing that a client or a server would rewrite.
fn is_prefix_part(part: &str) -> bool {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=".contains(&byte);
    !part.is_empty() && part != "." && part != ".." && part.bytes().all(is_safe)
}

impl TryFrom<String> for StoreUrl {
    type Error = InvalidStoreUrl;

    fn try_from(url: String) -> Result<Self, InvalidStoreUrl> {
        url.parse()
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Memory => f.write_str("memory:"),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_folders_and_memory() {
        for (text, path) in [
            ("file:/var/lib/forebay", "/var/lib/forebay"),
            ("file:data/store", "data/store"),
            ("file:///var/lib/forebay", "/var/lib/forebay"),
            ("file:/with%20percent", "/with%20percent"),
        ] {
            assert_eq!(text.parse(), Ok(StoreUrl::File(path.into())), "{text}");
        }
        assert_eq!("memory:".parse(), Ok(StoreUrl::Memory));
        assert_eq!(StoreUrl::File("/a".into()).to_string(), "file:/a");
        assert_eq!(StoreUrl::Memory.to_string(), "memory:");
    }

    #[test]
    fn urls_name_a_bucket_and_a_prefix_strictly() {
        let s3 = |bucket: &str, prefix: &str| StoreUrl::S3 { bucket: bucket.into(), prefix: prefix.into() };
        for (text, url) in [
            ("s3://bucket", s3("bucket", "")),
            ("s3://my.bucket-7", s3("my.bucket-7", "")),
            ("s3://bucket/team=a/events_1.x", s3("bucket", "team=a/events_1.x")),
        ] {
            assert_eq!(text.parse().as_ref(), Ok(&url), "{text}");
            assert_eq!(format!("{text}/").parse().as_ref(), Ok(&url), "{text}/");
            assert_eq!(url.to_string(), text);
        }
        let long = format!("s3://bucket/{}", "x".repeat(S3_PREFIX_LEN_MAX + 1));
        for text in [
            "s3:",
            "s3://",
            "s3:bucket",
            "s3:///prefix",
            "s3://ab",
            "s3://Bucket",
            "s3://bucket.",
            "s3://-bucket",
            "s3://a..b",
            "s3://bucket//",
            "s3://bucket//x",
            "s3://bucket/x//y",
            "s3://bucket/../x",
            "s3://bucket/x?y",
            "s3://bucket/%20",
            "s3://key:secret@bucket",
            "s3://bucket:80/x",
            &long,
        ] {
            let refused = InvalidStoreUrl::S3 { url: text.into() };
            assert_eq!(text.parse::<StoreUrl>(), Err(refused), "{text}");
        }
    }

    #[test]
    fn a_store_this_build_cannot_open_is_named() {
        let error = "gs://bucket/prefix".parse::<StoreUrl>().unwrap_err();
        assert_eq!(error.to_string(), "unsupported store scheme, use file:, s3: or memory: scheme=gs");
        for text in ["", "/var/lib/forebay", "file:", "file://host/path", "file://", "memory:x", "gs://b"] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text}");
        }
    }
}
