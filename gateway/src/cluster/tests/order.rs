//! Units of one request keep their order, whoever leads while they are on their way.

use std::collections::VecDeque;

use forebay_log::error::Outcome;
use forebay_log::model::{NodeId, Topic};
use forebay_log::shard::AppendError;
use tokio::task::JoinSet;

use super::*;
use crate::produce::route::{Leader, Routes};
use crate::produce::{Enqueued, Idempotency, ProduceError, ProduceOptions, Producer, Progress, Unit};
use crate::shards::Shards;
use crate::{limits, testing};

/// A gateway that leads nothing at first.
struct Gateway {
    node: TestNode,
    routes: Arc<Routes>,
    producer: Producer,
    topic: Topic,
}

impl Gateway {
    async fn start() -> Self {
        let made = {
            let node = testing::node(1).await;
            testing::topic(&node, "orders", 1).await
        };
        let topic = Topic { id: TOPIC, ..Topic::clone(&made) };
        let routes = Arc::new(Routes::moving(1));
        let shards = Arc::new(Shards::new(Vec::new(), Signals::default()));
        let producer = Producer::new(shards, Arc::clone(&routes), Arc::new(SystemClock));
        Self { node: TestNode::start().await, routes, producer, topic }
    }

    async fn enqueue(
        &self,
        value: &str,
        progress: &mut Progress,
        options: &ProduceOptions,
    ) -> Result<Enqueued, ProduceError> {
        let mut unit = Unit::default();
        unit.push(testing::record(0, value));
        self.producer.enqueue(&self.topic, unit, PartitionId::new(0), progress, options).await
    }

    /// Sends units as a body of lines does. Returns how many are stored for sure.
    async fn request(&self, name: usize, units: usize, options: &ProduceOptions) -> Result<usize, usize> {
        let (mut progress, mut waiting) = (Progress::default(), VecDeque::new());
        let (mut stored, mut failed) = (0, false);
        for unit in 0..units {
            let window =
                if options.idempotency.is_some() && stored == 0 { 1 } else { limits::UNITS_IN_FLIGHT_MAX };
            while waiting.len() >= window {
                settle(&mut waiting, &mut stored, &mut failed).await;
            }
            if failed {
                break;
            }
            match self.enqueue(&format!("{name}:{unit}"), &mut progress, options).await {
                Ok(enqueued) => waiting.push_back(enqueued),
                Err(error) => panic!("{error:?}"),
            }
        }
        while !waiting.is_empty() {
            settle(&mut waiting, &mut stored, &mut failed).await;
        }
        if failed { Err(stored) } else { Ok(stored) }
    }

    fn leads(&self, leader: &TestNode) {
        self.routes.set(SHARD, Leader::There(NodeId::new(2), leader.from(&self.node)));
    }
}

async fn settle(waiting: &mut VecDeque<Enqueued>, stored: &mut usize, failed: &mut bool) {
    let Some(enqueued) = waiting.pop_front() else { return };
    match enqueued.acknowledged().await {
        Ok(_) if *failed => panic!("stored behind what failed"),
        Ok(_) => *stored += 1,
        Err(_) => *failed = true,
    }
}

/// Values that one request stored, in the order of the log.
fn of(name: usize, values: &[String]) -> Vec<usize> {
    let of_name =
        values.iter().filter_map(|value| value.split_once(':')).filter(|(by, _)| *by == name.to_string());
    of_name.map(|(_, unit)| unit.parse().unwrap()).collect()
}

const REQUESTS: usize = 6;
const UNITS: usize = 60;

/// Sends requests while the leadership goes from node to node. `moves` says whether the one before hands over.
async fn requests_under_moves(named: bool, hand_over: bool) -> (Vec<Result<usize, usize>>, Vec<String>) {
    let (_, store) = shared_store().await;
    let gateway = Arc::new(Gateway::start().await);
    let nodes = [TestNode::start().await, TestNode::start().await];
    let mut leading = nodes[0].lead(&store).await;
    gateway.leads(&nodes[0]);
    let mut requests = JoinSet::new();
    for name in 0..REQUESTS {
        let (gateway, id) = (Arc::clone(&gateway), 100 + name as u128);
        requests.spawn(async move {
            let idempotency = named.then_some(Idempotency::Request { id });
            let options = ProduceOptions { idempotency, ..ProduceOptions::default() };
            (name, gateway.request(name, UNITS, &options).await)
        });
    }
    let mut done = vec![Ok(0); REQUESTS];
    let mut turn = 0;
    while let Some(ended) = requests.try_join_next() {
        let (name, stored) = ended.unwrap();
        done[name] = stored;
    }
    while !requests.is_empty() {
        turn += 1;
        if hand_over {
            leading.drain();
            leading.flush().await;
            leading.stop().await;
        }
        if turn % 3 == 0 {
            leading = open(&store).await;
            gateway.routes.set(SHARD, Leader::Here(leading.clone()));
        } else {
            let node = &nodes[turn as usize % 2];
            leading = node.lead(&store).await;
            gateway.leads(node);
        }
        // A few units get through under each leader.
        let ended = tokio::time::timeout(Duration::from_millis(5), requests.join_next()).await;
        if let Ok(Some(ended)) = ended {
            let (name, stored) = ended.unwrap();
            done[name] = stored;
        }
    }
    leading.flush().await;
    let values = values(&leading).await;
    (done, values)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_outlive_leaders_that_hand_over() {
    let (done, values) = requests_under_moves(false, true).await;
    for (name, stored) in done.iter().enumerate() {
        assert_eq!(*stored, Ok(UNITS));
        assert_eq!(of(name, &values), (0..UNITS).collect::<Vec<_>>(), "request {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_with_a_name_outlive_leaders_that_are_deposed() {
    let (done, values) = requests_under_moves(true, false).await;
    for (name, stored) in done.iter().enumerate() {
        assert_eq!(*stored, Ok(UNITS));
        assert_eq!(of(name, &values), (0..UNITS).collect::<Vec<_>>(), "request {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_a_name_store_a_prefix_whatever_happens() {
    let (done, values) = requests_under_moves(false, false).await;
    for (name, stored) in done.iter().enumerate() {
        let found = of(name, &values);
        assert_eq!(found, (0..found.len()).collect::<Vec<_>>(), "request {name}");
        assert!(stored.unwrap_or_else(|stored| stored) <= found.len());
    }
}

#[tokio::test]
async fn a_unit_waits_while_those_before_it_are_on_another_way() {
    let (faulty, store) = shared_store().await;
    let (gateway, first, second) = (Gateway::start().await, TestNode::start().await, TestNode::start().await);
    let (mut progress, options) = (Progress::default(), ProduceOptions::default());
    first.lead(&store).await;
    gateway.leads(&first);
    let hold = faulty.hold(forebay_log::store::Operation::Create, forebay_log::testing::Moment::Request);
    let one = gateway.enqueue("1", &mut progress, &options).await.unwrap();
    hold.arrived(1).await;
    let elsewhere = shared_store().await.1;
    let other = second.lead(&elsewhere).await;
    gateway.leads(&second);
    let two = gateway.enqueue("2", &mut progress, &options).await.unwrap();
    let three = gateway.enqueue("3", &mut progress, &options).await.unwrap();
    other.flush().await;
    assert_eq!(values(&other).await, Vec::<String>::new(), "a share may not overtake another");
    hold.release();
    one.acknowledged().await.unwrap();
    two.acknowledged().await.unwrap();
    assert_eq!(values(&other).await, ["2"], "each waits for its turn");
    three.acknowledged().await.unwrap();
    assert_eq!(values(&other).await, ["2", "3"]);
    let four = gateway.enqueue("4", &mut progress, &options).await.unwrap();
    let five = gateway.enqueue("5", &mut progress, &options).await.unwrap();
    five.acknowledged().await.unwrap();
    four.acknowledged().await.unwrap();
    assert_eq!(values(&other).await, ["2", "3", "4", "5"], "with the way clear nothing waits");
}

#[tokio::test]
async fn nothing_is_sent_behind_a_unit_that_failed() {
    let (_, store) = shared_store().await;
    let (gateway, node) = (Gateway::start().await, TestNode::start().await);
    let mut progress = Progress::default();
    // Nobody leads: both are kept.
    let expected = Some(Offset::new(9));
    let fails = ProduceOptions { expected, ..ProduceOptions::default() };
    let one = gateway.enqueue("1", &mut progress, &fails).await.unwrap();
    let two = gateway.enqueue("2", &mut progress, &ProduceOptions::default()).await.unwrap();
    let shard = node.lead(&store).await;
    gateway.leads(&node);
    let failed = one.acknowledged().await.unwrap_err();
    assert!(matches!(failed, ProduceError::Append(AppendError::Expected { .. })), "{failed:?}");
    let not_sent = two.acknowledged().await.unwrap_err();
    assert_eq!(not_sent.outcome(), Outcome::NotApplied);
    shard.flush().await;
    assert_eq!(values(&shard).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_request_waits_until_its_deadline_and_is_not_applied() {
    let gateway = Gateway::start().await;
    let begun = tokio::time::Instant::now();
    let sent = gateway.enqueue("1", &mut Progress::default(), &ProduceOptions::default()).await.unwrap();
    let refused = sent.acknowledged().await.unwrap_err();
    assert!(begun.elapsed() >= limits::PRODUCE_WAIT_MAX);
    assert_eq!(refused.outcome(), Outcome::NotApplied);
    gateway.routes.refuse();
    let refused =
        gateway.enqueue("2", &mut Progress::default(), &ProduceOptions::default()).await.unwrap_err();
    assert!(matches!(refused, ProduceError::Append(AppendError::Draining)), "{refused:?}");
}
