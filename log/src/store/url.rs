//! Where a store lies, as written in a configuration.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

/// Where a store lies: `file:/var/lib/forebay`, `file:forebay-data/store` or `memory:`.
///
/// The path of a `file:` store is taken literally, without percent-decoding. `file:///var/lib/forebay` is
/// understood too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
#[non_exhaustive]
pub enum StoreUrl {
    /// A folder of this machine.
    File(PathBuf),
    /// The memory of this process: every opening is a new, empty store.
    Memory,
}

/// A text that names no store this build can open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidStoreUrl {
    /// A scheme this build does not open.
    #[error("unsupported store scheme, this build opens file: and memory: only: scheme={scheme}")]
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
            _ => Err(InvalidStoreUrl::Scheme { scheme: scheme.to_owned() }),
        }
    }
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
    fn a_store_this_build_cannot_open_is_named() {
        let error = "s3://bucket/prefix".parse::<StoreUrl>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "unsupported store scheme, this build opens file: and memory: only: scheme=s3"
        );
        for text in ["", "/var/lib/forebay", "file:", "file://host/path", "file://", "memory:x", "gs://b"] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text}");
        }
    }
}
