//! Writers that send each request to another node, one after the other, and remember what they were told.
//!
//! A record's value says who sent it and its place in what that writer sends. All records of a writer have one key, so
//! that they are in one partition. Plain writers never send anything again: what was not answered may be stored once or
//! not at all. Named ones send a request until it is acknowledged.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use harness::{Answer, Client, eventually, in_time};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Most records of a request.
const LINES_MAX: u64 = 4;
/// How long a writer waits for an answer. A frozen node gives none.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// Pause after a request that was not acknowledged.
const PAUSE: Duration = Duration::from_millis(20);

/// By what a writer's requests are told from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Naming {
    /// By nothing.
    Plain,
    /// By an `Idempotency-Key` each.
    Key,
    /// By a `Producer-Id` and sequences.
    Sequence,
}

/// So many writers of each naming.
pub(crate) fn mixed(each: usize) -> [(Naming, usize); 3] {
    [(Naming::Plain, each), (Naming::Key, each), (Naming::Sequence, each)]
}

/// What a writer knows of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is stored, and its records are there.
    Acknowledged { partition: u64, offsets: Vec<u64> },
    /// It is not stored, now and for ever.
    Refused,
    /// Nobody knows.
    Unknown,
}

impl Fate {
    /// What is known of a request by its last attempt, after earlier ones.
    fn of_last_attempt(self) -> Self {
        if self == Self::Refused { Self::Unknown } else { self }
    }
}

/// One request, and the places of its records in the writer's sequence.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) records: Range<u64>,
    pub(crate) fate: Fate,
}

/// What all writers share.
#[derive(Debug)]
struct Control {
    nodes: Vec<Client>,
    topic: String,
    finish: AtomicBool,
    /// Whether requests are not sent again any more.
    give_up: AtomicBool,
    acknowledged: Vec<AtomicU64>,
}

/// One writer.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) name: String,
    pub(crate) naming: Naming,
    number: usize,
    random: StdRng,
    pub(crate) sent: Vec<Sent>,
    /// Attempts beyond the first of each request.
    pub(crate) attempts_again: u64,
}

impl Writer {
    fn new(number: usize, naming: Naming) -> Self {
        let random = StdRng::seed_from_u64(number as u64);
        Self {
            name: format!("{naming:?}-{number}"),
            naming,
            number,
            random,
            sent: Vec::new(),
            attempts_again: 0,
        }
    }

    /// A writer with this past.
    pub(crate) fn that_sent(sent: Vec<Sent>) -> Self {
        Self { sent, ..Self::new(0, Naming::Plain) }
    }

    async fn run(mut self, control: Arc<Control>) -> Self {
        while !control.finish.load(Ordering::Relaxed) {
            let first = self.sent.last().map_or(0, |sent| sent.records.end);
            let records = first..first + self.random.random_range(1..=LINES_MAX);
            let fate = self.send_until_known(&control, &records).await;
            if let Fate::Acknowledged { .. } = fate {
                control.acknowledged(self.number);
            } else {
                tokio::time::sleep(PAUSE).await;
            }
            self.sent.push(Sent { records, fate });
        }
        self
    }

    async fn send_until_known(&mut self, control: &Control, records: &Range<u64>) -> Fate {
        loop {
            let fate = self.send(control, records).await;
            let is_final = self.naming == Naming::Plain || matches!(fate, Fate::Acknowledged { .. });
            if is_final || control.give_up.load(Ordering::Relaxed) {
                return if self.naming == Naming::Plain { fate } else { fate.of_last_attempt() };
            }
            self.attempts_again += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn send(&mut self, control: &Control, records: &Range<u64>) -> Fate {
        let node = &control.nodes[self.random.random_range(0..control.nodes.len())];
        let line = |sequence| json!({"writer": self.name, "sequence": sequence}).to_string() + "\n";
        let body: String = records.clone().map(line).collect();
        let path = format!("/v1/topics/{}/records?key_path=/writer", control.topic);
        let call = node.post(&path).header("content-type", "application/x-ndjson");
        let first = records.start.to_string();
        let call = match self.naming {
            Naming::Plain => call,
            Naming::Key => call.header("idempotency-key", &format!("{}/{first}", self.name)),
            Naming::Sequence => call.header("producer-id", &self.name).header("producer-seq", &first),
        };
        match call.body(body).try_send().await {
            Ok(answer) => fate(&answer, records),
            Err(error) if error.is_connect() => Fate::Refused,
            Err(_) => Fate::Unknown,
        }
    }

    /// How many requests were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.sent.iter().filter(|sent| matches!(sent.fate, Fate::Acknowledged { .. })).count()
    }
}

/// What an answer says. Any that no client should ever see here is a panic.
fn fate(answer: &Answer, records: &Range<u64>) -> Fate {
    let status = answer.status.as_u16();
    if status == 200 || status == 201 {
        return receipt(&answer.json(), records);
    }
    assert!([409, 503].contains(&status), "{}: {}", answer.status, answer.text());
    let problem = answer.json();
    assert!(status == 503 || problem["code"] == "in-progress", "{problem}");
    if problem["effect"] == "none" && problem["code"] != "in-progress" {
        Fate::Refused
    } else {
        Fate::Unknown
    }
}

fn receipt(receipt: &Value, records: &Range<u64>) -> Fate {
    let places = receipt["records"].as_array().expect("a receipt names its records");
    assert_eq!(places.len() as u64, records.end - records.start, "{receipt}");
    let number = |value: &Value| value.as_u64().expect("a number");
    let offsets = places.iter().map(|place| number(&place["offset"])).collect();
    Fate::Acknowledged { partition: number(&places[0]["partition"]), offsets }
}

impl Control {
    fn acknowledged(&self, writer: usize) {
        self.acknowledged[writer].fetch_add(1, Ordering::Relaxed);
    }
}

/// Writers at work.
#[derive(Debug)]
pub(crate) struct Load {
    control: Arc<Control>,
    writers: JoinSet<Writer>,
}

impl Load {
    /// Starts so many writers of each naming, on a topic that is there.
    pub(crate) fn start(nodes: &[Client], topic: &str, namings: &[(Naming, usize)]) -> Self {
        let nodes = nodes.iter().map(|node| Client::with_timeout(node.url(), ANSWER_MAX)).collect();
        let namings = namings.iter().flat_map(|&(naming, count)| std::iter::repeat_n(naming, count));
        let writers: Vec<Writer> =
            namings.enumerate().map(|(number, naming)| Writer::new(number, naming)).collect();
        let control = Arc::new(Control {
            nodes,
            topic: topic.to_owned(),
            finish: AtomicBool::new(false),
            give_up: AtomicBool::new(false),
            acknowledged: writers.iter().map(|_| AtomicU64::new(0)).collect(),
        });
        let writers = writers.into_iter().map(|writer| writer.run(Arc::clone(&control))).collect();
        Self { control, writers }
    }

    /// Waits until every writer has so many requests more acknowledged.
    pub(crate) async fn each_acknowledged(&mut self, more: u64) {
        let counts = |control: &Control| -> Vec<u64> {
            control.acknowledged.iter().map(|count| count.load(Ordering::Relaxed)).collect()
        };
        let before = counts(&self.control);
        eventually("every writer is acknowledged", || {
            // Only one that has panicked ends before it is told to.
            let ended = self.writers.try_join_next();
            assert!(ended.is_none(), "a writer ended: {ended:?}");
            let done = counts(&self.control).iter().zip(&before).all(|(now, before)| *now >= before + more);
            async move { done.then_some(()) }
        })
        .await;
    }

    /// Ends the writers, each once it knows the fate of its last request.
    pub(crate) async fn finish(mut self) -> Vec<Writer> {
        self.control.finish.store(true, Ordering::Relaxed);
        let mut writers = Vec::new();
        while let Some(writer) = in_time("the writers end", self.writers.join_next()).await {
            writers.push(writer.expect("a writer does not panic"));
        }
        writers.sort_by_key(|writer| writer.number);
        writers
    }

    /// Ends the writers once each has what comes of its present attempt, on a cluster that is gone.
    pub(crate) async fn give_up(self) -> Vec<Writer> {
        self.control.give_up.store(true, Ordering::Relaxed);
        self.finish().await
    }
}
