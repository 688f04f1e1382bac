//! API keys and the secret that signs tickets: a JSON register, swapped whole by any gateway.
//!
//! A key itself is never stored: only SHA-256 of its salt followed by the key. `Debug` shows neither hashes nor the
//! signing secret, so that no log line can.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::FormatError;
use crate::format::codec::{decode_json, encode_json, ensure, ensure_size};
use crate::limits::{API_KEY_ID_LEN_MAX, API_KEY_SCOPES_MAX, API_KEYS_MAX, TOPIC_NAME_LEN_MAX};
use crate::model::Timestamp;

const WHAT: &str = "access";
const FORMAT: u32 = 1;

/// Bytes that no log may show, written as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> Secret<N> {
    /// Wraps the bytes.
    pub const fn new(bytes: [u8; N]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes. Compare what an outsider sent in constant time, not with `==`.
    pub const fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<const N: usize> Serialize for Secret<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&hex)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Secret<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || serde::de::Error::custom(format_args!("not {} hexadecimal digits", N * 2));
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let pairs = text.as_bytes().chunks_exact(2);
        let bytes: Option<Vec<u8>> = pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect();
        let bytes = bytes.filter(|_| text.len() == N * 2).ok_or_else(wrong)?;
        bytes.try_into().map(Self).map_err(|_| wrong())
    }
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Append records.
    Produce,
    /// Read records.
    Consume,
    /// Poll and commit as a member of a consumer group.
    Group,
    /// Create, alter and delete.
    Admin,
}

/// One permission of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// What it allows.
    pub action: Action,
    /// On what: a name, or a prefix followed by `*`.
    pub pattern: String,
}

impl Scope {
    /// Tells whether the pattern matches the name.
    pub fn matches(&self, name: &str) -> bool {
        match self.pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == self.pattern,
        }
    }

    fn is_sound(&self) -> bool {
        let name = self.pattern.strip_suffix('*').unwrap_or(&self.pattern);
        !self.pattern.is_empty() && name.len() <= TOPIC_NAME_LEN_MAX && !name.contains('*')
    }
}

/// One API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// SHA-256 of the salt followed by the key.
    pub hash: Secret<32>,
    /// Drawn for each key, so that equal keys have different hashes.
    pub salt: Secret<16>,
    /// What it may do; at most [`API_KEY_SCOPES_MAX`].
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created: Timestamp,
}

/// Who may do what in a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessFile {
    format: u32,
    /// 1 at creation, one more with each swap.
    pub version: u64,
    /// Signs tickets; drawn at creation.
    pub signing_secret: Secret<32>,
    /// The keys by id, at most [`API_KEYS_MAX`].
    pub keys: BTreeMap<String, ApiKey>,
}

impl AccessFile {
    /// Returns the register of a new cluster.
    pub fn new(signing_secret: Secret<32>) -> Self {
        Self { format: FORMAT, version: 1, signing_secret, keys: BTreeMap::new() }
    }

    /// Encodes the register.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] past a cap, [`FormatError::Field`] for what no reader would accept. A retry does not
    /// help.
    pub fn encode(&self) -> Result<Bytes, FormatError> {
        self.check()?;
        encode_json(WHAT, self)
    }

    /// Decodes the register.
    ///
    /// # Errors
    /// Any [`FormatError`]; no key may be accepted. A retry only helps if the store gave wrong bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let file: Self = decode_json(WHAT, FORMAT, bytes)?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> Result<(), FormatError> {
        ensure(self.version > 0, WHAT, "version")?;
        ensure_size(self.keys.len(), API_KEYS_MAX, WHAT)?;
        for (id, key) in &self.keys {
            ensure(is_key_id(id), WHAT, "key id")?;
            ensure_size(key.scopes.len(), API_KEY_SCOPES_MAX, WHAT)?;
            ensure(key.scopes.iter().all(Scope::is_sound), WHAT, "scope")?;
        }
        Ok(())
    }
}

/// Tells whether a text may name a key: `[a-zA-Z0-9._-]{1,64}`, so that it fits in a path and before the colon of
/// Basic credentials.
pub fn is_key_id(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    (1..=API_KEY_ID_LEN_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::sample;

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?} {:#?}", sample::access(), sample::access());
        for byte in ["abab", "171", "cdcd", "205"] {
            assert!(!shown.contains(byte), "{shown}");
        }
        assert!(shown.contains("orders-*"));
    }

    #[test]
    fn a_scope_matches_its_name_or_prefix() {
        let scope = |pattern: &str| Scope { action: Action::Produce, pattern: pattern.to_owned() };
        assert!(scope("orders").matches("orders"));
        assert!(!scope("orders").matches("orders-eu"));
        assert!(scope("orders-*").matches("orders-eu"));
        assert!(!scope("orders-*").matches("orders"));
        assert!(scope("*").matches("anything"));
    }

    #[test]
    fn what_no_version_wrote_is_refused() {
        let refused = |change: fn(&mut AccessFile)| {
            let mut file = sample::access();
            change(&mut file);
            file.encode().is_err() && AccessFile::decode(&serde_json::to_vec(&file).unwrap()).is_err()
        };
        fn key(file: &mut AccessFile) -> &mut ApiKey {
            file.keys.values_mut().next().unwrap()
        }
        assert!(refused(|file| key(file).scopes[0].pattern = "a*b".to_owned()));
        assert!(refused(|file| key(file).scopes[0].pattern = String::new()));
        assert!(refused(|file| {
            let key = key(file).clone();
            file.keys.insert("a:b".to_owned(), key);
        }));
        assert!(refused(|file| file.version = 0));
        assert!(!refused(|_| ()));
        let newer = FormatError::Version { what: WHAT, version: 2 };
        assert_eq!(AccessFile::decode(br#"{"format":2}"#), Err(newer));
    }

    #[test]
    fn a_secret_of_another_length_is_refused() {
        for text in [r#""""#, r#""ab""#, r#""abc""#, r#""abcdef""#, r#""ABCD""#, r#""éé""#] {
            assert!(serde_json::from_str::<Secret<2>>(text).is_err(), "{text}");
        }
        let secret: Secret<2> = serde_json::from_str(r#""00ff""#).unwrap();
        assert_eq!(secret.expose(), &[0, 255]);
    }
}
