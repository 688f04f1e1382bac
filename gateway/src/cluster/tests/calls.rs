//! Probes, and who is turned away.

use forebay_log::error::Outcome;
use forebay_log::shard::AppendError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::*;
use crate::cluster::append::EncodedAppend;
use crate::cluster::call::{Does, Probe, ProbeAnswer};

/// What a node that would lead answers.
pub(super) fn does(does: Does) -> Probe {
    Probe::Answered(ProbeAnswer { does, node: NodeId::new(1), incarnation: 2, would_lead: true })
}

#[tokio::test]
async fn a_node_that_will_not_lead_says_so() {
    let (asks, node) = (TestNode::start().await, TestNode::start().await);
    let ended = LeaderEpoch::new(7);
    asks.peers.lead(&node.address, SHARD, ended).await.unwrap();
    assert_eq!(std::mem::take(&mut *node.local.told.lock()), [(SHARD, ended)]);
    node.local.declines.store(true, Ordering::Relaxed);
    let Probe::Answered(answer) = asks.peers.probe(&node.address, SHARD).await else { panic!("no answer") };
    assert!(!answer.would_lead);
    let declined = asks.peers.lead(&node.address, SHARD, ended).await;
    assert!(matches!(declined, Err(PeerError::Declined)), "{declined:?}");
    assert!(node.local.told.lock().is_empty());
}

#[tokio::test]
async fn a_probe_tells_who_leads_and_whether_anybody_listens() {
    let (asks, node) = (TestNode::start().await, TestNode::start().await);
    assert_eq!(asks.peers.probe(&node.address, SHARD).await, does(Does::Neither { hint: None }));
    let hint = LeaderHint {
        node: NodeId::new(3),
        incarnation: 4,
        address: "elsewhere:1".to_owned(),
        epoch: LeaderEpoch::new(5),
    };
    *node.local.hint.lock() = Some(hint.clone());
    assert_eq!(asks.peers.probe(&node.address, SHARD).await, does(Does::Neither { hint: Some(hint) }));
    *node.local.taking_over.lock() = true;
    assert_eq!(asks.peers.probe(&node.address, SHARD).await, does(Does::TakesOver));
    let (_, store) = shared_store().await;
    let epoch = node.lead(&store).await.epoch();
    assert_eq!(asks.peers.probe(&node.address, SHARD).await, does(Does::Leads { epoch }));
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    assert_eq!(asks.peers.probe(&nobody, SHARD).await, Probe::Refused);
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_at = mute.local_addr().unwrap().to_string();
    assert_eq!(asks.peers.probe(&mute_at, SHARD).await, Probe::Silent);
}

#[tokio::test]
async fn a_node_with_another_secret_or_of_another_cluster_is_turned_away() {
    let (_, store) = shared_store().await;
    let node = TestNode::start().await;
    let shard = node.lead(&store).await;
    let guesses = TestNode::with(&config("another-secret-of-all", None), ClusterId::new(1)).await;
    let strays = TestNode::with(&config("the-secret-of-all", None), ClusterId::new(2)).await;
    let refused = guesses.peers.lead(&node.address, SHARD, LeaderEpoch::ZERO).await;
    assert!(matches!(refused, Err(PeerError::Secret)), "{refused:?}");
    let refused = strays.peers.lead(&node.address, SHARD, LeaderEpoch::ZERO).await;
    assert!(matches!(refused, Err(PeerError::OtherCluster)), "{refused:?}");
    for stranger in [&guesses, &strays] {
        assert_eq!(stranger.peers.probe(&node.address, SHARD).await, Probe::Silent);
        let stream = node.from(stranger).stream();
        let deadline = Instant::now() + Duration::from_secs(60);
        let sent = stream.enqueue(&EncodedAppend::new(append("x")).unwrap(), 0, deadline).await;
        let answer = sent.unwrap().receipt.acknowledged().await;
        assert_eq!(answer, Err(AppendError::NoLeader { outcome: Outcome::NotApplied }));
    }
    assert!(node.local.told.lock().is_empty());
    assert_eq!(values(&shard).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_no_http_2_is_cut_off() {
    let node = TestNode::start().await;
    let mut stream = TcpStream::connect(&node.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Cut, in one way or another.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1"), "{answer:?}");
}
