//! Producers that remember what was acknowledged, and the log that must agree with them.
//!
//! Each producer writes one request after the other under its own key, so that all its records are in one
//! partition, and never retries: what is not acknowledged may be stored once or not at all.

use std::collections::HashMap;
use std::sync::Arc;

use harness::{Client, in_time};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const PRODUCERS: usize = 6;
/// Records of each request of the producers that send NDJSON.
const LINES: u64 = 20;
const RECORDS: &str = "/v1/topics/load/records";

/// A value as stored: who sent it, and its place in the producer's sequence and in its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Value {
    producer: String,
    sequence: u64,
    request: u64,
    of: u64,
}

#[derive(Debug)]
struct Acknowledged {
    partition: usize,
    offset: usize,
    value: Value,
}

#[derive(Debug)]
struct Producer {
    name: String,
    /// Records per request.
    of: u64,
    sequence: u64,
    request: u64,
    acknowledged: Vec<Acknowledged>,
}

impl Producer {
    /// Sends until a request fails, as every request does once the server is gone.
    async fn run(mut self, client: Client, count: Arc<Semaphore>) -> Self {
        while let Some(acknowledged) = self.send(&client).await {
            count.add_permits(acknowledged.len());
            self.acknowledged.extend(acknowledged);
        }
        self
    }

    async fn send(&mut self, client: &Client) -> Option<Vec<Acknowledged>> {
        let values: Vec<Value> = (0..self.of).map(|at| self.value(at)).collect();
        (self.sequence, self.request) = (self.sequence + self.of, self.request + 1);
        let lines: Vec<String> =
            values.iter().map(|value| serde_json::to_string(value).expect("it is plain data")).collect();
        let call = if self.of == 1 {
            client.post(&format!("{RECORDS}?key={}", self.name)).body(lines.concat())
        } else {
            let call = client.post(&format!("{RECORDS}?key_path=/producer"));
            call.header("content-type", "application/x-ndjson").body(lines.join("\n"))
        };
        let answer = in_time("an answer or a lost connection", call.try_send()).await.ok()?;
        if answer.status == 503 {
            return None;
        }
        let receipt = answer.expect(201).json();
        let places = receipt["records"].as_array().expect("a receipt names its records");
        assert_eq!(places.len(), values.len(), "{receipt}");
        let number = |value: &serde_json::Value| value.as_u64().expect("a number") as usize;
        let place = |(place, value): (&serde_json::Value, Value)| Acknowledged {
            partition: number(&place["partition"]),
            offset: number(&place["offset"]),
            value,
        };
        Some(places.iter().zip(values).map(place).collect())
    }

    fn value(&self, at: u64) -> Value {
        Value {
            producer: self.name.clone(),
            sequence: self.sequence + at,
            request: self.request,
            of: self.of,
        }
    }
}

/// All producers, over several rounds.
#[derive(Debug)]
pub(crate) struct Load {
    resting: Vec<Producer>,
    running: JoinSet<Producer>,
    count: Arc<Semaphore>,
}

impl Load {
    pub(crate) fn new() -> Self {
        let producer = |id| Producer {
            name: format!("producer-{id}"),
            of: if id % 2 == 0 { 1 } else { LINES },
            sequence: 0,
            request: 0,
            acknowledged: Vec::new(),
        };
        Self {
            resting: (0..PRODUCERS).map(producer).collect(),
            running: JoinSet::new(),
            count: Arc::new(Semaphore::new(0)),
        }
    }

    pub(crate) fn start(&mut self, client: &Client) {
        self.count = Arc::new(Semaphore::new(0));
        for producer in self.resting.drain(..) {
            self.running.spawn(producer.run(client.clone(), self.count.clone()));
        }
    }

    /// Waits until so many records have been acknowledged since the start.
    pub(crate) async fn acknowledged(&self, count: u32) {
        let permits = in_time("records are acknowledged", self.count.acquire_many(count)).await;
        permits.expect("it is never closed").forget();
    }

    /// Returns how many records were acknowledged in all, to producers that rest now.
    pub(crate) fn total(&self) -> usize {
        self.resting.iter().map(|producer| producer.acknowledged.len()).sum()
    }

    /// Waits for the producers, which end with the server.
    pub(crate) async fn stop(&mut self) {
        while let Some(producer) = in_time("the producers end", self.running.join_next()).await {
            self.resting.push(producer.expect("a producer does not panic"));
        }
    }
}

/// What a reader has seen, per partition in the order of reading.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    partitions: HashMap<usize, Vec<Value>>,
    cursor: Option<String>,
}

impl Log {
    /// Reads on up to the end. Offsets must continue without a gap.
    pub(crate) async fn read_on(&mut self, client: &Client) {
        let (records, cursor) = client.read_on(RECORDS, self.cursor.take()).await;
        self.cursor = Some(cursor);
        for record in records {
            let partition = record["partition"].as_u64().expect("a number") as usize;
            let values = self.partitions.entry(partition).or_default();
            assert_eq!(record["offset"].as_u64(), Some(values.len() as u64), "the next offset: {record}");
            values.push(serde_json::from_value(record["value"].clone()).expect("a value of ours"));
        }
    }

    /// Checks everything acknowledged so far, and that nothing came twice, out of order or in part.
    pub(crate) fn check(&self, load: &Load, when: &str) {
        let mut found: HashMap<&str, Vec<&Value>> = HashMap::new();
        for value in self.partitions.values().flatten() {
            found.entry(&value.producer).or_default().push(value);
        }
        for producer in &load.resting {
            for acknowledged in &producer.acknowledged {
                let stored = self.partitions.get(&acknowledged.partition);
                let stored = stored.and_then(|values| values.get(acknowledged.offset));
                assert_eq!(stored, Some(&acknowledged.value), "{when}: lost or moved: {acknowledged:?}");
            }
            let stored = found.get(producer.name.as_str()).map_or(&[][..], Vec::as_slice);
            let rising = stored.windows(2).all(|pair| pair[0].sequence < pair[1].sequence);
            assert!(rising, "{when}: repeated or reordered: {}", producer.name);
            for request in stored.chunk_by(|one, next| one.request == next.request) {
                assert_eq!(request.len() as u64, request[0].of, "{when}: stored in part: {:?}", request[0]);
            }
        }
    }
}
