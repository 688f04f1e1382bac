//! Producers that send every request again until it is answered, several at a time on one connection, and the log that
//! must hold each of their records once and in order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::raw::{self, RawAnswer, RawAnswers};
use harness::{Client, in_time};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

const RECORDS: &str = "/v1/topics/load/records";
/// Requests of a producer on their way at once, on its one connection.
const PIPELINE: usize = 6;
/// Most records of a request.
const LINES_MAX: u64 = 12;
/// Longest without an answer before a connection is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// By what a producer's requests are told from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    Key,
    Sequence,
}

/// A request that was not answered yet.
#[derive(Debug, Clone)]
struct Request {
    number: u64,
    /// Sequence of its first record, and behind its last.
    records: std::ops::Range<u64>,
    /// How often it was sent.
    sent: u32,
}

/// What one producer has done.
#[derive(Debug)]
pub(crate) struct Producer {
    name: String,
    naming: Naming,
    random: StdRng,
    next: Request,
    waiting: VecDeque<Request>,
    /// Of each record, by sequence: partition and offset.
    places: Vec<(u64, u64)>,
    pub(crate) figures: Figures,
}

/// What happened to requests on their way.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    pub(crate) sent_again: u64,
    pub(crate) replayed: u64,
    pub(crate) cut: u64,
}

impl Figures {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            sent_again: self.sent_again + other.sent_again,
            replayed: self.replayed + other.replayed,
            cut: self.cut + other.cut,
        }
    }
}

/// How the running producers are told about the world.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    pub(crate) address: String,
    pub(crate) acknowledged: Arc<Semaphore>,
    pub(crate) finish: Arc<AtomicBool>,
}

impl Producer {
    pub(crate) fn new(id: u64, naming: Naming) -> Self {
        Self {
            name: format!("{naming:?}-{id}"),
            naming,
            random: StdRng::seed_from_u64(id),
            next: Request { number: 0, records: 0..0, sent: 0 },
            waiting: VecDeque::new(),
            places: Vec::new(),
            figures: Figures::default(),
        }
    }

    /// Sends requests until it is told to finish and all are answered.
    async fn run(mut self, signals: Signals) -> Self {
        while !(signals.finish.load(Ordering::Relaxed) && self.waiting.is_empty()) {
            match raw::connect(&signals.address).await {
                Ok((send, answers)) => self.use_up(send, answers, &signals).await,
                // Nobody listens: the server is being started again.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        self
    }

    /// Uses one connection until it breaks, or is cut, or everything is answered. What was not answered on the last one
    /// is sent first, in its order.
    async fn use_up(&mut self, mut send: OwnedWriteHalf, mut answers: RawAnswers, signals: &Signals) {
        let mut on_their_way = 0;
        loop {
            while on_their_way < PIPELINE {
                if on_their_way == self.waiting.len() {
                    if signals.finish.load(Ordering::Relaxed) {
                        break;
                    }
                    let request = self.next_request();
                    self.waiting.push_back(request);
                }
                let bytes = self.bytes(on_their_way);
                // Now and then the client is what breaks.
                if self.random.random_bool(0.004) {
                    self.figures.cut += 1;
                    let part = self.random.random_range(0..bytes.len());
                    let _ = send.write_all(&bytes[..part]).await;
                    return;
                }
                if send.write_all(&bytes).await.is_err() {
                    return;
                }
                on_their_way += 1;
            }
            if on_their_way == 0 {
                return;
            }
            let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, answers.next()).await else { return };
            if !self.take(&answer, signals) {
                return;
            }
            on_their_way -= 1;
        }
    }

    fn next_request(&mut self) -> Request {
        let end = self.next.records.end + self.random.random_range(1..=LINES_MAX);
        let request = Request { number: self.next.number, records: self.next.records.end..end, sent: 0 };
        self.next = Request { number: request.number + 1, ..request.clone() };
        self.figures.requests += 1;
        request
    }

    fn bytes(&mut self, at: usize) -> Vec<u8> {
        let request = &mut self.waiting[at];
        request.sent += 1;
        self.figures.sent_again += u64::from(request.sent > 1);
        let line = |sequence| json!({"producer": self.name, "sequence": sequence}).to_string() + "\n";
        let body: String = request.records.clone().map(line).collect();
        let (key, sequence) =
            (format!("{}/{}", self.name, request.number), request.records.start.to_string());
        let media = ("content-type", "application/x-ndjson");
        match self.naming {
            Naming::Key => {
                let path = format!("{RECORDS}?key_path=/producer");
                raw::post(&path, &[media, ("idempotency-key", &key)], body.as_bytes())
            }
            Naming::Sequence => {
                let headers = [media, ("producer-id", self.name.as_str()), ("producer-seq", &sequence)];
                raw::post(RECORDS, &headers, body.as_bytes())
            }
        }
    }

    /// Takes the answer to the oldest request; tells whether the connection can be used further.
    fn take(&mut self, answer: &RawAnswer, signals: &Signals) -> bool {
        let request = self.waiting.front().expect("an answer belongs to a request");
        if answer.status == 503 {
            return false;
        }
        let replayed = answer.head.contains("idempotency-replayed: true");
        let duplicate = replayed && matches!(self.naming, Naming::Sequence);
        assert_eq!(answer.status, if duplicate { 200 } else { 201 }, "{answer:?}");
        assert!(!replayed || request.sent > 1, "taken for a retry: {request:?}");
        self.figures.replayed += u64::from(replayed);
        let records = answer.body["records"].as_array().expect("a receipt names its records");
        assert_eq!(records.len() as u64, request.records.end - request.records.start, "{answer:?}");
        let number = |value: &Value| value.as_u64().expect("a number");
        let places = records.iter().map(|record| (number(&record["partition"]), number(&record["offset"])));
        self.places.extend(places);
        signals.acknowledged.add_permits(records.len());
        self.waiting.pop_front();
        true
    }

    /// Checks that the log holds exactly what was sent, where the answers said.
    pub(crate) fn check(&self, log: &HashMap<String, Vec<(u64, u64, u64)>>) {
        let found = log.get(&self.name).map_or(&[][..], Vec::as_slice);
        assert_eq!(found.len(), self.places.len(), "{}: each record once", self.name);
        for (expected, ((partition, offset), found)) in self.places.iter().zip(found).enumerate() {
            assert_eq!(
                *found,
                (expected as u64, *partition, *offset),
                "{}: in order and in place",
                self.name
            );
        }
    }

    /// Sends what cannot be next, and is told what is.
    pub(crate) async fn is_still_known(&self, client: &Client) {
        let count = self.places.len() as u64;
        let line = |sequence: u64| json!({"producer": self.name, "sequence": sequence}).to_string() + "\n";
        let call = client.post(RECORDS).header("content-type", "application/x-ndjson");
        let call = call.header("producer-id", &self.name).header("producer-seq", &(count + 1).to_string());
        let problem = call.body(line(count + 1)).await.problem(409, "sequence-gap");
        assert_eq!(problem["expected_sequence"], count, "{}", self.name);
    }

    pub(crate) fn is_sequenced(&self) -> bool {
        self.naming == Naming::Sequence
    }

    pub(crate) fn records(&self) -> usize {
        self.places.len()
    }
}

/// Starts all producers.
pub(crate) fn start(producers: Vec<Producer>, signals: &Signals) -> JoinSet<Producer> {
    producers.into_iter().map(|producer| producer.run(signals.clone())).collect()
}

/// Waits until all producers have their answers.
pub(crate) async fn finish(mut running: JoinSet<Producer>, signals: &Signals) -> Vec<Producer> {
    signals.finish.store(true, Ordering::Relaxed);
    let mut producers = Vec::new();
    while let Some(producer) = in_time("the producers end", running.join_next()).await {
        producers.push(producer.expect("a producer does not panic"));
    }
    producers
}

/// Reads the whole topic: of each producer its sequences in the order of the log, with partition and offset.
pub(crate) async fn read(client: &Client) -> HashMap<String, Vec<(u64, u64, u64)>> {
    let mut found: HashMap<String, Vec<_>> = HashMap::new();
    for record in client.read_all(RECORDS).await {
        let number = |value: &Value| value.as_u64().expect("a number");
        let producer = record["value"]["producer"].as_str().expect("a name").to_owned();
        let place =
            (number(&record["value"]["sequence"]), number(&record["partition"]), number(&record["offset"]));
        found.entry(producer).or_default().push(place);
    }
    found
}
