mod grouped;
mod shared;

use forebay_log::clock::ManualClock;
use forebay_log::model::{CleanupPolicy, Settings};
use forebay_log::store::{Operation, StoreUrl};
use forebay_log::testing::{Fault, FaultyStore};
use rand::SeedableRng;
use serde_json::json;

use super::*;

fn changes(value: Value) -> Changes {
    value.as_object().unwrap().clone()
}

fn name(text: &str) -> TopicName {
    text.parse().unwrap()
}

async fn open(store: Store, seed: u64) -> Arc<Topics> {
    let shared = !store.is_exclusive();
    let options = TopicsOptions { shards: 2, shared, ids: StdRng::seed_from_u64(seed) };
    Topics::open(store, Keys::new(""), Arc::new(ManualClock::default()), options).await.unwrap()
}

/// Lets a moment pass: what happens at one instant has no order for who goes by a paused clock.
async fn tick() {
    tokio::time::advance(std::time::Duration::from_millis(1)).await;
}

/// Two nodes on one store, and what the second one's calls go through.
async fn two_nodes() -> (Arc<Topics>, Arc<Topics>, FaultyStore) {
    let objects = memory().await.objects();
    let faulty = FaultyStore::new(Arc::clone(&objects), 1);
    let one = open(Store::with_objects(objects, false), 1).await;
    let two = open(Store::with_objects(Arc::new(faulty.clone()), false), 2).await;
    (one, two, faulty)
}

async fn memory() -> Store {
    Store::open(&StoreUrl::Memory).await.unwrap()
}

#[tokio::test]
async fn creating_again_compares_only_what_is_named() {
    let topics = open(memory().await, 1).await;
    let settings = changes(json!({"partitions": 3, "cleanup.policy": "compact"}));
    let (orders, new) = topics.create(&name("orders"), &settings).await.unwrap();
    assert!(new);
    assert_eq!((orders.partitions, orders.settings.cleanup_policy), (3, CleanupPolicy::Compact));
    assert!(!topics.create(&name("orders"), &Changes::new()).await.unwrap().1);
    let other = topics.create(&name("orders"), &changes(json!({"partitions": 4}))).await;
    assert!(matches!(other, Err(TopicsError::Exists { setting, .. }) if setting == "partitions"));
}

#[tokio::test]
async fn what_makes_no_sense_changes_nothing() {
    let topics = open(memory().await, 1).await;
    for settings in [
        json!({"partition": 1}),
        json!({"partitions": 0}),
        json!({"partitions": 513}),
        json!({"partitions": "3"}),
        json!({"retention.ms": -2}),
        json!({"max.message.bytes": 0}),
        json!({"cleanup.policy": "shred"}),
        json!({"segment.ms": u64::MAX}),
    ] {
        let refused = topics.create(&name("orders"), &changes(settings.clone())).await;
        assert!(matches!(refused, Err(TopicsError::Settings(_))), "{settings}: {refused:?}");
    }
    assert!(topics.get(&name("orders")).is_none());
}

#[tokio::test]
async fn altering_merges_and_a_version_names_one_incarnation() {
    let topics = open(memory().await, 1).await;
    let (first, _) = topics.create(&name("orders"), &changes(json!({"retention.ms": 5}))).await.unwrap();
    let wider = changes(json!({"partitions": 2, "retention.ms": null}));
    let second =
        topics.alter(&name("orders"), &wider, Some(vec![TopicVersion::of(&first).etag()])).await.unwrap();
    assert_eq!((second.partitions, second.version), (2, 2));
    assert_eq!(second.settings.retention_ms, Settings::default().retention_ms);
    let stale = topics.alter(&name("orders"), &wider, Some(vec![TopicVersion::of(&first).etag()])).await;
    assert!(matches!(stale, Err(TopicsError::Version { current }) if current.version == 2));
    assert_eq!(topics.alter(&name("orders"), &wider, None).await.unwrap().version, 2, "nothing changed");
    let fewer = topics.alter(&name("orders"), &changes(json!({"partitions": 1})), None).await;
    assert!(matches!(fewer, Err(TopicsError::Settings(_))));
    topics.delete(&name("orders"), None).await.unwrap();
    topics.create(&name("orders"), &Changes::new()).await.unwrap();
    let other = topics.delete(&name("orders"), Some(vec![TopicVersion::of(&first).etag()])).await;
    assert!(matches!(other, Err(TopicsError::Version { .. })), "same number, another incarnation");
}

#[tokio::test]
async fn listing_goes_on_behind_a_name() {
    let topics = open(memory().await, 1).await;
    for text in ["a", "b1", "b2", "b3", "c"] {
        topics.create(&name(text), &Changes::new()).await.unwrap();
    }
    let names =
        |page: Vec<(TopicName, Arc<Topic>)>| page.iter().map(|(n, _)| n.to_string()).collect::<Vec<_>>();
    let (page, more) = topics.list("b", None, 2);
    assert_eq!((names(page), more), (vec!["b1".to_owned(), "b2".to_owned()], true));
    let (page, more) = topics.list("b", Some(&name("b2")), 2);
    assert_eq!((names(page), more), (vec!["b3".to_owned()], false));
}

#[tokio::test]
async fn racing_creators_on_one_register_lose_nothing() {
    let objects = memory().await.objects();
    let one = open(Store::with_objects(Arc::clone(&objects), false), 1).await;
    let two = open(Store::with_objects(Arc::clone(&objects), false), 2).await;
    for n in 0..5 {
        let (mine, yours, ours) =
            (name(&format!("one{n}")), name(&format!("two{n}")), name(&format!("both{n}")));
        let none = Changes::new();
        let (a, b) = tokio::join!(one.create(&mine, &none), two.create(&yours, &none));
        assert!(a.unwrap().1 && b.unwrap().1);
        let (a, b) = tokio::join!(one.create(&ours, &none), two.create(&ours, &none));
        let (a, b) = (a.unwrap(), b.unwrap());
        assert!(a.1 != b.1, "exactly one created it");
        assert_eq!(a.0, b.0);
    }
    let all = open(Store::with_objects(objects, false), 3).await.all();
    assert_eq!(all.len(), 15);
    let epochs: std::collections::HashSet<&str> = all.iter().map(|topic| topic.epoch.as_str()).collect();
    assert_eq!(epochs.len(), 15, "an epoch is never given out twice");
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_not_forgotten() {
    let faulty = FaultyStore::new(memory().await.objects(), 1);
    let topics = open(Store::with_objects(Arc::new(faulty.clone()), true), 1).await;
    topics.create(&name("orders"), &Changes::new()).await.unwrap();
    for _ in 0..16 {
        faulty.inject(Operation::Swap, Fault::LoseReply);
    }
    // Whatever the caller is told, memory shows what is stored.
    let told = topics.delete(&name("orders"), None).await;
    assert!(topics.get(&name("orders")).is_none(), "{told:?}");
    assert!(open(Store::with_objects(Arc::new(faulty), true), 2).await.get(&name("orders")).is_none());
}

#[tokio::test]
async fn a_change_goes_on_when_its_caller_is_gone() {
    let faulty = FaultyStore::new(memory().await.objects(), 1);
    let topics = open(Store::with_objects(Arc::new(faulty.clone()), true), 1).await;
    let hold = faulty.hold(Operation::Create, forebay_log::testing::Moment::Reply);
    let (orders, none) = (name("orders"), Changes::new());
    let call = topics.create(&orders, &none);
    assert!(futures::FutureExt::now_or_never(call).is_none(), "the caller left before the answer");
    hold.release();
    // It waits for its turn behind the first.
    assert!(!topics.create(&orders, &none).await.unwrap().1);
    assert!(topics.get(&orders).is_some());
}
