//! Changes that share a swap, and swaps that meet those of other nodes.

use std::collections::HashSet;

use forebay_log::testing::Moment;
use futures::future::join_all;
use tokio::time::Instant;

use super::*;

/// What a change was answered.
type Answer = Result<Arc<Topic>, TopicsError>;

fn created(topics: &Arc<Topics>, text: &str, settings: Value) -> tokio::task::JoinHandle<Answer> {
    let (topics, text) = (Arc::clone(topics), name(text));
    tokio::spawn(async move { topics.create(&text, &changes(settings)).await.map(|(topic, _)| topic) })
}

/// Lets all tasks run until each of them waits.
async fn settle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn changes_that_wait_share_one_swap() {
    let (_, two, faulty) = two_nodes().await;
    let hold = faulty.hold(Operation::Create, Moment::Request);
    let first = created(&two, "first", json!({}));
    settle().await;
    let others: Vec<_> = (0..50).map(|n| created(&two, &format!("t{n}"), json!({}))).collect();
    settle().await;
    hold.release();
    first.await.unwrap().unwrap();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert_eq!((faulty.calls(Operation::Create), faulty.calls(Operation::Swap)), (1, 1));
    assert_eq!(two.all().len(), 51);
}

#[tokio::test]
async fn a_change_that_is_refused_spoils_nothing_for_those_it_waits_with() {
    let (_, two, faulty) = two_nodes().await;
    two.create(&name("old"), &Changes::new()).await.unwrap();
    let before = faulty.calls(Operation::Swap);
    let hold = faulty.hold(Operation::Swap, Moment::Request);
    let first = created(&two, "first", json!({}));
    settle().await;
    let unknown = created(&two, "bad", json!({"partition": 1}));
    let good = created(&two, "good", json!({"partitions": 2}));
    settle().await;
    let other = created(&two, "good", json!({"partitions": 3}));
    let same = created(&two, "good", json!({"partitions": 2}));
    settle().await;
    let (topics, spawned) = (Arc::clone(&two), Arc::clone(&two));
    let again = tokio::spawn(async move { topics.create_new(&name("good"), &Changes::new()).await });
    let absent = tokio::spawn(async move { spawned.alter(&name("absent"), &Changes::new(), None).await });
    settle().await;
    hold.release();
    first.await.unwrap().unwrap();
    assert!(matches!(unknown.await.unwrap(), Err(TopicsError::Settings(_))));
    let good = good.await.unwrap().unwrap();
    assert!(matches!(other.await.unwrap(), Err(TopicsError::Exists { .. })));
    assert_eq!(same.await.unwrap().unwrap(), good);
    assert!(
        matches!(again.await.unwrap(), Err(TopicsError::Version { current }) if current == TopicVersion::of(&good))
    );
    assert!(matches!(absent.await.unwrap(), Err(TopicsError::NotFound { .. })));
    assert_eq!(faulty.calls(Operation::Swap), before + 2);
    assert!(two.get(&name("bad")).is_none());
}

#[tokio::test]
async fn nodes_that_swap_at_the_same_time_lose_nothing() {
    let objects = memory().await.objects();
    let mut nodes = Vec::new();
    for seed in 0..4 {
        nodes.push(open(Store::with_objects(Arc::clone(&objects), false), seed).await);
    }
    let mut creating = Vec::new();
    for n in 0..25 {
        creating.extend(
            nodes.iter().enumerate().map(|(at, node)| created(node, &format!("t{at}-{n}"), json!({}))),
        );
        tokio::task::yield_now().await;
    }
    for answer in join_all(creating).await {
        answer.unwrap().unwrap();
    }
    let all = open(Store::with_objects(objects, false), 9).await.all();
    let epochs: HashSet<&str> = all.iter().map(|topic| topic.epoch.as_str()).collect();
    assert_eq!((all.len(), epochs.len()), (100, 100));
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_swap_does_not_rest_on_an_old_copy() {
    let (one, two, _) = two_nodes().await;
    let (first, _) = one.create(&name("orders"), &Changes::new()).await.unwrap();
    tick().await;
    two.find(&name("orders")).await.unwrap();
    // The tag of a state that only the other node has seen.
    let altered = one.alter(&name("orders"), &changes(json!({"retention.ms": 5})), None).await.unwrap();
    tick().await;
    let back = changes(json!({"retention.ms": null}));
    let expected = Some(vec![TopicVersion::of(&altered).etag()]);
    two.alter(&name("orders"), &back, expected).await.unwrap();
    let deleting = tokio::spawn({
        let one = Arc::clone(&one);
        async move { one.delete(&name("orders"), None).await }
    });
    while one.get(&name("orders")).is_some() {
        tick().await;
    }
    assert!(two.get(&name("orders")).is_some());
    tick().await;
    let (anew, new) = two.create(&name("orders"), &Changes::new()).await.unwrap();
    assert!(new && anew.id != first.id, "a topic that is gone was confirmed");
    deleting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn changes_past_the_limit_are_refused_at_once() {
    let (_, two, faulty) = two_nodes().await;
    let hold = faulty.hold(Operation::Create, Moment::Request);
    let first = created(&two, "first", json!({}));
    settle().await;
    let mut waiting = Vec::new();
    for _ in 0..limits::TOPIC_CHANGES_MAX {
        waiting.push(created(&two, "orders", json!({})));
    }
    settle().await;
    let begun = Instant::now();
    let refused = created(&two, "orders", json!({})).await.unwrap();
    assert!(matches!(refused, Err(TopicsError::Overloaded)), "{refused:?}");
    assert_eq!(begun.elapsed(), std::time::Duration::ZERO);
    hold.release();
    first.await.unwrap().unwrap();
    for answer in join_all(waiting).await {
        answer.unwrap().unwrap();
    }
}
