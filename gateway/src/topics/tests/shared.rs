//! Copies of several nodes: when they are trusted, when the store is asked, and what a deletion waits for.

use std::time::Duration;

use forebay_log::model::{Durability, PartitionId};
use forebay_log::testing::Moment;
use futures::FutureExt as _;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::time::{Instant, advance};

use super::*;

const OBJECT: Option<Durability> = Some(Durability::Object);
const LOCAL: Option<Durability> = Some(Durability::Local);

async fn two_nodes_with_orders() -> (Arc<Topics>, Arc<Topics>, FaultyStore) {
    let (one, two, faulty) = two_nodes().await;
    one.create(&name("orders"), &Changes::new()).await.unwrap();
    tick().await;
    two.find(&name("orders")).await.unwrap();
    (one, two, faulty)
}

#[tokio::test(start_paused = true)]
async fn a_copy_costs_nothing_while_it_is_trusted_and_then_one_read_for_all() {
    let (_, two, faulty) = two_nodes_with_orders().await;
    let before = faulty.calls(Operation::Get);
    for _ in 0..100 {
        two.find(&name("orders")).await.unwrap();
    }
    assert_eq!(faulty.calls(Operation::Get), before);
    advance(limits::TOPICS_TRUST * 2).await;
    join_all((0..50).map(|_| async { two.find(&name("orders")).await.unwrap() })).await;
    assert_eq!(faulty.calls(Operation::Get), before + 1);
}

#[tokio::test(start_paused = true)]
async fn while_requests_come_none_of_them_waits() {
    let (_, two, faulty) = two_nodes_with_orders().await;
    let before = faulty.calls(Operation::Get);
    for _ in 0..100 {
        advance(Duration::from_millis(100)).await;
        assert!(two.find(&name("orders")).now_or_never().is_some(), "a request waited");
        tokio::task::yield_now().await;
    }
    let looks = faulty.calls(Operation::Get) - before;
    assert!((10..=20).contains(&looks), "{looks} looks in 10 s");
    advance(Duration::from_secs(3600)).await;
    tokio::task::yield_now().await;
    assert_eq!(faulty.calls(Operation::Get) - before, looks, "nobody looks while nobody asks");
}

#[tokio::test(start_paused = true)]
async fn streams_cost_one_look_each_period_of_trust_at_most() {
    let (_, two, faulty) = two_nodes_with_orders().await;
    let before = faulty.calls(Operation::Get);
    for _ in 0..1000 {
        advance(Duration::from_millis(10)).await;
        (0..3).for_each(|_| two.nudge());
        tokio::task::yield_now().await;
    }
    let looks = faulty.calls(Operation::Get) - before;
    assert!((8..=10).contains(&looks), "{looks} looks in 10 s");
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_looked_for_before_it_is_called_so() {
    let (one, two, _) = two_nodes_with_orders().await;
    one.create(&name("bills"), &Changes::new()).await.unwrap();
    tick().await;
    let bills = two.find(&name("bills")).await.unwrap();
    assert_eq!(two.find_id(bills.id).await.unwrap(), Some(bills));
    let wider = changes(json!({"partitions": 3}));
    let orders = one.alter(&name("orders"), &wider, None).await.unwrap();
    tick().await;
    assert_eq!(two.find_with(&name("orders"), Some(PartitionId::new(2))).await.unwrap(), orders);
    let (late, _) = one.create(&name("late"), &Changes::new()).await.unwrap();
    tick().await;
    assert_eq!(two.find_id(late.id).await.unwrap(), Some(late));
}

#[tokio::test(start_paused = true)]
async fn names_that_do_not_exist_cost_four_looks_a_second_at_most() {
    let (_, two, faulty) = two_nodes_with_orders().await;
    let (before, begun) = (faulty.calls(Operation::Get), Instant::now());
    for _ in 0..20 {
        tick().await;
        let absent = name("absent");
        let answers = join_all((0..10).map(|_| two.find(&absent))).await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(TopicsError::NotFound { .. }))));
    }
    let looks = faulty.calls(Operation::Get) - before;
    let most = begun.elapsed().as_millis() / limits::TOPICS_LOOK_PAUSE.as_millis() + 1;
    assert!(looks as u128 <= most, "{looks} looks in {:?}", begun.elapsed());
    assert!(begun.elapsed() <= limits::TOPICS_LOOK_PAUSE * 21, "who waits together is answered together");
}

#[tokio::test(start_paused = true)]
async fn nobody_trusts_a_topic_any_more_when_its_deletion_is_answered() {
    let (one, two, _) = two_nodes_with_orders().await;
    let gone = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&gone);
    two.on_deleted(move |topic| told.lock().push(topic));
    // The copy is as young as one can be that shows the topic.
    advance(limits::TOPICS_TRUST * 2).await;
    two.refresh().await;
    let orders = one.delete(&name("orders"), None).await.unwrap();
    for level in [OBJECT, LOCAL] {
        let found = two.find_to_append(&name("orders"), None, level).await;
        assert!(matches!(found, Err(TopicsError::NotFound { .. })), "{found:?}");
    }
    assert_eq!(*gone.lock(), [orders.id]);
    assert_eq!(two.find_id(orders.id).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_came_and_went_between_two_looks_is_told_of() {
    let (one, two, _) = two_nodes_with_orders().await;
    let short = one.create(&name("short"), &Changes::new()).await.unwrap().0;
    one.delete(&name("short"), None).await.unwrap();
    let gone = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&gone);
    two.on_deleted(move |topic| told.lock().push(topic));
    two.refresh().await;
    assert_eq!(*gone.lock(), [short.id]);
}

#[tokio::test(start_paused = true)]
async fn a_successor_is_found_by_who_names_it() {
    let (one, two, _) = two_nodes_with_orders().await;
    let deleting = tokio::spawn({
        let one = Arc::clone(&one);
        async move { one.delete(&name("orders"), None).await.unwrap() }
    });
    while one.get(&name("orders")).is_some() {
        tick().await;
    }
    let (anew, _) = one.create(&name("orders"), &Changes::new()).await.unwrap();
    tick().await;
    let found = two.find_where(&name("orders"), |topic| topic.epoch == anew.epoch).await.unwrap();
    assert_eq!(found, anew);
    assert_ne!(deleting.await.unwrap().id, anew.id);
}

#[tokio::test(start_paused = true)]
async fn without_the_store_reads_and_local_appends_go_on_and_others_are_refused() {
    let (_, two, faulty) = two_nodes_with_orders().await;
    faulty.set_chance(Operation::Get, Fault::Fail, 1.0);
    two.find_to_append(&name("orders"), None, OBJECT).await.unwrap();
    advance(limits::TOPICS_TRUST * 2).await;
    two.find(&name("orders")).await.unwrap();
    assert!(
        two.find(&name("orders")).now_or_never().is_some(),
        "nobody waits for a store that has just failed"
    );
    two.find_to_append(&name("orders"), None, LOCAL).await.unwrap();
    let refused = two.find_to_append(&name("orders"), None, OBJECT).await;
    assert!(matches!(refused, Err(TopicsError::Stale)), "{refused:?}");
    let unknown = two.find(&name("absent")).await;
    assert!(matches!(unknown, Err(TopicsError::Stale)), "it may exist: {unknown:?}");
    faulty.set_chance(Operation::Get, Fault::Fail, 0.0);
    advance(Duration::from_secs(60)).await;
    two.find_to_append(&name("orders"), None, OBJECT).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_holds_a_request_up_for_a_moment_only() {
    let (_, two, faulty) = two_nodes_with_orders().await;
    let hold = faulty.hold(Operation::Get, Moment::Request);
    advance(limits::TOPICS_TRUST * 2).await;
    let begun = Instant::now();
    two.find(&name("orders")).await.unwrap();
    assert_eq!(begun.elapsed(), limits::TOPICS_WAIT_MAX);
    assert!(two.find(&name("orders")).now_or_never().is_some());
    hold.release();
    two.find_to_append(&name("orders"), None, OBJECT).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hint_ends_the_trust_in_an_older_copy() {
    let (one, two, faulty) = two_nodes_with_orders().await;
    let before = faulty.calls(Operation::Get);
    two.hint(two.version());
    two.find(&name("orders")).await.unwrap();
    assert_eq!(faulty.calls(Operation::Get), before, "it says nothing new");
    let altered = one.alter(&name("orders"), &changes(json!({"retention.ms": 5})), None).await.unwrap();
    tick().await;
    two.hint(one.version());
    assert_eq!(two.find(&name("orders")).await.unwrap(), altered);
    // One that is wrong costs one look.
    let before = faulty.calls(Operation::Get);
    tick().await;
    two.hint(one.version() + 7);
    advance(limits::TOPICS_LOOK_PAUSE).await;
    for _ in 0..10 {
        two.find(&name("orders")).await.unwrap();
    }
    assert_eq!(faulty.calls(Operation::Get), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_behind_another_reads_before_it_goes_on() {
    let (one, two, _) = two_nodes_with_orders().await;
    one.create(&name("bills"), &Changes::new()).await.unwrap();
    tick().await;
    two.at_least(one.version()).await.unwrap();
    assert!(two.get(&name("bills")).is_some());
    let ahead = two.at_least(one.version() + 1).await;
    assert!(matches!(ahead, Err(TopicsError::Stale)), "{ahead:?}");
}

#[tokio::test(start_paused = true)]
async fn a_register_that_went_back_is_not_believed() {
    let (one, two, faulty) = two_nodes_with_orders().await;
    let older = one.store.read_register(&one.keys.topics()).await.unwrap().unwrap();
    one.create(&name("bills"), &Changes::new()).await.unwrap();
    tick().await;
    two.find(&name("bills")).await.unwrap();
    one.store.delete(&one.keys.topics()).await.unwrap();
    advance(limits::TOPICS_TRUST * 2).await;
    let refused = two.find_to_append(&name("bills"), None, OBJECT).await;
    assert!(matches!(refused, Err(TopicsError::Stale)), "{refused:?}");
    let put = one.store.swap(&one.keys.topics(), None, older.body).await.unwrap();
    assert!(matches!(put, forebay_log::store::Swap::Swapped(_)));
    advance(limits::TOPICS_TRUST * 2).await;
    let refused = two.find_to_append(&name("bills"), None, OBJECT).await;
    assert!(matches!(refused, Err(TopicsError::Stale)), "{refused:?}");
    assert!(two.find(&name("bills")).await.is_ok());
    assert!(faulty.calls(Operation::Swap) == 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_alone_never_looks() {
    let faulty = FaultyStore::new(memory().await.objects(), 1);
    let topics = open(Store::with_objects(Arc::new(faulty.clone()), true), 1).await;
    topics.create(&name("orders"), &Changes::new()).await.unwrap();
    let before = faulty.calls(Operation::Get);
    advance(Duration::from_secs(3600)).await;
    topics.find_to_append(&name("orders"), None, OBJECT).await.unwrap();
    assert!(topics.find(&name("absent")).await.is_err());
    topics.nudge();
    let begun = Instant::now();
    topics.delete(&name("orders"), None).await.unwrap();
    assert_eq!(faulty.calls(Operation::Get), before);
    assert_eq!(begun.elapsed(), Duration::ZERO, "there is nobody to wait for");
}
