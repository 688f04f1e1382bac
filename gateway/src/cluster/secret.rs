//! How nodes of a cluster know each other: by a proof made from their common secret.
//!
//! The proof is HMAC-SHA-256 over the cluster's id under the secret. It is the same for every request, so that whoever
//! can read the traffic can use it: it keeps out those who merely reach the address, and nodes that are configured for
//! another cluster. Against eavesdroppers there is TLS ([`super::tls`]). The secret itself is never sent or logged.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use forebay_log::model::ClusterId;
use http::{HeaderMap, HeaderValue};

/// Header with the proof, in hexadecimal.
const PROOF: &str = "forebay-proof";
/// Header with the id of the cluster, so that a node of another cluster can be told so.
const CLUSTER: &str = "forebay-cluster";
/// What is proven, so that no other use of the secret gives the same bytes.
const PURPOSE: &[u8] = b"forebay node 1\0";
/// Fewest characters of a secret: 16 random ones cannot be guessed.
const SECRET_LEN_MIN: usize = 16;

/// A secret that is too short, or cannot be typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret has at least 16 characters, none of them white space")]
pub struct InvalidSecret;

/// What all nodes of a cluster know, and nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl FromStr for Secret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let fits = text.len() >= SECRET_LEN_MIN && !text.contains(char::is_whitespace);
        fits.then(|| Self(text.to_owned())).ok_or(InvalidSecret)
    }
}

/// Leaves the secret out.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What the check of a request's proof found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proven {
    /// It comes from a node of this cluster.
    Yes,
    /// From one of another cluster.
    OtherCluster,
    /// From somebody who does not know the secret.
    No,
}

/// The proof that every request carries.
pub(super) struct Proof {
    proof: HeaderValue,
    cluster: HeaderValue,
}

impl Proof {
    pub(super) fn new(secret: &Secret, cluster: ClusterId) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.0.as_bytes());
        let tag = hmac::sign(&key, &[PURPOSE, &cluster.to_bytes()[..]].concat());
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut proof = HeaderValue::from_str(&hex).expect("hexadecimal digits fit in a header");
        proof.set_sensitive(true);
        let cluster = HeaderValue::from_str(&cluster.to_string()).expect("so does an id");
        Self { proof, cluster }
    }

    /// Puts the proof into the head of a request.
    pub(super) fn put(&self, headers: &mut HeaderMap) {
        headers.insert(PROOF, self.proof.clone());
        headers.insert(CLUSTER, self.cluster.clone());
    }

    /// Checks the head of a request; how long that takes says nothing about the proof.
    pub(super) fn check(&self, headers: &HeaderMap) -> Proven {
        if headers.get(CLUSTER) != Some(&self.cluster) {
            return Proven::OtherCluster;
        }
        let given = headers.get(PROOF).map_or(&b""[..], HeaderValue::as_bytes);
        match verify_slices_are_equal(given, self.proof.as_bytes()) {
            Ok(()) => Proven::Yes,
            Err(_) => Proven::No,
        }
    }
}

/// Leaves the proof out.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_secret_and_its_cluster_alone() {
        let secret = |text: &str| text.parse::<Secret>().unwrap();
        let ours = Proof::new(&secret("0123456789abcdef"), ClusterId::new(1));
        let mut headers = HeaderMap::new();
        assert_eq!(ours.check(&headers), Proven::OtherCluster);
        ours.put(&mut headers);
        assert_eq!(ours.check(&headers), Proven::Yes);
        assert_eq!(Proof::new(&secret("0123456789abcdef"), ClusterId::new(1)).check(&headers), Proven::Yes);
        assert_eq!(Proof::new(&secret("0123456789abcdeg"), ClusterId::new(1)).check(&headers), Proven::No);
        let elsewhere = Proof::new(&secret("0123456789abcdef"), ClusterId::new(2));
        assert_eq!(elsewhere.check(&headers), Proven::OtherCluster);
        headers.remove(PROOF);
        assert_eq!(ours.check(&headers), Proven::No);
    }

    #[test]
    fn neither_secret_nor_proof_is_printed() {
        let secret: Secret = "correct-horse-battery".parse().unwrap();
        let proof = Proof::new(&secret, ClusterId::new(1));
        let (mut headers, hex) = (HeaderMap::new(), proof.proof.to_str().unwrap().to_owned());
        proof.put(&mut headers);
        let printed = format!("{secret:?} {proof:?} {headers:?}");
        assert!(!printed.contains("horse") && !printed.contains(&hex), "{printed}");
        assert_eq!("short".parse::<Secret>(), Err(InvalidSecret));
        assert_eq!("with a space, and long".parse::<Secret>(), Err(InvalidSecret));
    }
}
