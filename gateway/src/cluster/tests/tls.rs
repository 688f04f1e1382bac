//! Who has a certificate of the cluster's authority, and who has not.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::*;
use crate::cluster::call::{Does, Probe};

/// Makes an authority and a certificate for `localhost` of it, as files in a folder.
fn certificates(folder: &Path) -> PeerTls {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::from_params(&params, &authority_key);
    let key = KeyPair::generate().unwrap();
    let of_node = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = of_node.signed_by(&key, &issuer).unwrap();
    let file = |name: &str, text: String| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    PeerTls {
        certificate: file("node.pem", certificate.pem()),
        key: file("node.key", key.serialize_pem()),
        authority: file("authority.pem", authority.pem()),
    }
}

async fn node(tls: Option<PeerTls>) -> TestNode {
    TestNode::with(&config("the-secret-of-all", tls), ClusterId::new(1)).await
}

#[tokio::test]
async fn nodes_of_one_authority_trust_each_other_and_nobody_else() {
    let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let tls = certificates(ours.path());
    let server = node(Some(tls.clone())).await;
    let idle = super::calls::does(Does::Neither { hint: None });
    assert_eq!(node(Some(tls.clone())).await.peers.probe(&server.address, SHARD).await, idle);
    let stranger = node(Some(certificates(others.path()))).await;
    assert_eq!(stranger.peers.probe(&server.address, SHARD).await, Probe::Silent);
    assert_eq!(node(None).await.peers.probe(&server.address, SHARD).await, Probe::Silent);
    let by_number = server.address.replace("localhost", "127.0.0.1");
    let probed = node(Some(tls)).await.peers.probe(&by_number, SHARD).await;
    assert_eq!(probed, Probe::Silent, "the certificate names another host");
}

#[tokio::test]
async fn a_caller_without_a_certificate_of_the_authority_is_turned_away() {
    let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (tls, strange) = (certificates(ours.path()), certificates(others.path()));
    let server = node(Some(tls.clone())).await;
    // It trusts the server, but shows a certificate of another authority.
    let mixed = PeerTls { authority: tls.authority, ..strange };
    assert_eq!(node(Some(mixed)).await.peers.probe(&server.address, SHARD).await, Probe::Silent);
}

#[test]
fn files_that_do_not_fit_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let tls = certificates(folder.path());
    let error = |tls: PeerTls| {
        let cluster = ClusterId::new(1);
        let local = Arc::new(Local::default()) as Arc<dyn LocalShards>;
        Peers::new(&config("the-secret-of-all", Some(tls)), cluster, local).unwrap_err()
    };
    let missing = PeerTls { key: folder.path().join("none"), ..tls.clone() };
    assert!(matches!(error(missing), TlsError::File { path, .. } if path.ends_with("none")));
    let swapped = PeerTls { certificate: tls.key.clone(), ..tls };
    assert!(matches!(error(swapped), TlsError::File { path, .. } if path.ends_with("node.key")));
}
