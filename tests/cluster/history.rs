//! What the cluster holds, compared with what its writers were told and what readers saw meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::{Client, eventually, in_time};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::load::{Fate, Sent, Writer};

/// Longest wait of an observer for a page. A frozen node answers none.
const PAGE_MAX: Duration = Duration::from_secs(5);
/// Pause of an observer after a page that it did not get.
const PAUSE: Duration = Duration::from_millis(50);

/// Where the records of a writer are, by their place in its sequence: partition and offset, once for each time.
type Places = BTreeMap<u64, Vec<(u64, u64)>>;

/// The records of each partition by offset, which begin at zero and have no gaps.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Log(BTreeMap<u64, Vec<Value>>);

impl Log {
    /// Reads a topic from its start up to where this node says that it has caught up.
    pub(crate) async fn read(node: &Client, topic: &str) -> Self {
        let mut log = Self::default();
        log.take(&node.read_all(&format!("/v1/topics/{topic}/records")).await);
        log
    }

    /// Takes in records that must continue what is there.
    fn take(&mut self, records: &[Value]) {
        for record in records {
            let values = self.0.entry(number(&record["partition"])).or_default();
            assert_eq!(number(&record["offset"]), values.len() as u64, "the next offset: {record}");
            values.push(record["value"].clone());
        }
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// The first place that both have and at which they differ: partition, offset, and what each has there.
    pub(crate) fn contradiction<'a>(&'a self, other: &'a Self) -> Option<(u64, usize, &'a Value, &'a Value)> {
        self.0.iter().find_map(|(partition, ours)| {
            let both = ours.iter().zip(other.0.get(partition)?).enumerate();
            both.map(|(offset, (one, other))| (*partition, offset, one, other))
                .find(|(_, _, one, other)| one != other)
        })
    }

    /// Whether this reaches at least as far everywhere.
    pub(crate) fn reaches(&self, ends: &BTreeMap<u64, u64>) -> bool {
        ends.iter().all(|(partition, end)| self.0.get(partition).map_or(0, Vec::len) as u64 >= *end)
    }

    pub(crate) fn ends(&self) -> BTreeMap<u64, u64> {
        self.0.iter().map(|(partition, values)| (*partition, values.len() as u64)).collect()
    }

    /// The records of each writer.
    fn by_writer(&self) -> HashMap<&str, Places> {
        let mut found: HashMap<&str, Places> = HashMap::new();
        for (&partition, values) in &self.0 {
            for (offset, value) in (0..).zip(values) {
                let writer = value["writer"].as_str().expect("a value of ours");
                let places = found.entry(writer).or_default().entry(number(&value["sequence"])).or_default();
                places.push((partition, offset));
            }
        }
        found
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

/// What was promised, and how often it was broken.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Records that were sent, and those of them acknowledged.
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
    /// Requests sent again under their names.
    pub(crate) sent_again: u64,
    /// Requests refused, and those of which nobody knew.
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    /// Acknowledged records that are not where the receipt said.
    lost: u64,
    /// Records that are there more often than they were sent.
    repeated: u64,
    /// Acknowledged records behind a later one of the same writer in their partition.
    reordered: u64,
    /// Refused records that are there all the same.
    undead: u64,
    /// Requests of which some records are there and some are not.
    torn: u64,
}

impl Verdict {
    /// Compares the log with what the writers know.
    pub(crate) fn of(log: &Log, writers: &[Writer]) -> Self {
        let found = log.by_writer();
        let mut verdict = Self::default();
        let nothing = BTreeMap::new();
        for writer in writers {
            verdict.judge(writer, found.get(writer.name.as_str()).unwrap_or(&nothing));
        }
        verdict
    }

    fn judge(&mut self, writer: &Writer, found: &Places) {
        self.sent_again += writer.attempts_again;
        let mut last = None;
        for sent in &writer.sent {
            let records = sent.records.end - sent.records.start;
            let stored = found.range(sent.records.clone());
            let copies: u64 = stored.clone().map(|(_, places)| places.len() as u64).sum();
            self.sent += records;
            self.repeated += stored.clone().map(|(_, places)| places.len() as u64 - 1).sum::<u64>();
            match &sent.fate {
                Fate::Acknowledged { partition, offsets } => {
                    self.acknowledged += records;
                    self.lost += missing(sent, *partition, offsets, found);
                    self.reordered += u64::from(offsets.windows(2).any(|pair| pair[0] >= pair[1]));
                    let behind = |(on, last): (u64, u64)| on == *partition && last >= offsets[0];
                    self.reordered += u64::from(last.is_some_and(behind));
                    last = offsets.last().map(|last| (*partition, *last));
                }
                Fate::Refused => {
                    self.refused += 1;
                    self.undead += copies;
                }
                Fate::Unknown => {
                    self.unknown += 1;
                    self.torn += u64::from(!(stored.count() as u64).is_multiple_of(records));
                }
            }
        }
    }

    /// Checks that nothing promised was broken.
    #[track_caller]
    pub(crate) fn check(&self, writers: &[Writer]) {
        let Self { lost, repeated, reordered, undead, torn, .. } = self;
        assert_eq!([lost, repeated, reordered, undead, torn], [&0; 5], "{self}");
        for writer in writers {
            let silent = writer.acknowledged() == 0;
            assert!(!silent, "{} was never acknowledged: the test shows nothing", writer.name);
        }
    }
}

/// How many records of a request are not where its receipt said.
fn missing(sent: &Sent, partition: u64, offsets: &[u64], found: &Places) -> u64 {
    let is_there = |(sequence, offset): (u64, &u64)| {
        found.get(&sequence).is_some_and(|places| places.contains(&(partition, *offset)))
    };
    sent.records.clone().zip(offsets).filter(|record| !is_there(*record)).count() as u64
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} records sent, {} acknowledged; of the requests {} were refused, {} unknown, {} sent again; \
             lost {}, repeated {}, reordered {}, refused but stored {}, stored in part {}",
            self.sent,
            self.acknowledged,
            self.refused,
            self.unknown,
            self.sent_again,
            self.lost,
            self.repeated,
            self.reordered,
            self.undead,
            self.torn
        )
    }
}

/// Checks one load against what every node shows at its end, and answers the log that all of them show.
///
/// A record whose writer gave it up may be stored after the writers have ended, and then shows at one node before it
/// does at another.
pub(crate) async fn check(nodes: &[Client], topic: &str, writers: &[Writer]) -> (Log, Verdict) {
    let acknowledged = acknowledged_ends(writers);
    let log = eventually("all nodes show the same, and all that was acknowledged", || {
        let acknowledged = &acknowledged;
        async move {
            let mut logs = Vec::new();
            for node in nodes {
                logs.push(Log::read(node, topic).await);
            }
            let first = logs.pop().expect("there are nodes");
            for other in &logs {
                assert_eq!(first.contradiction(other), None, "two nodes show different logs");
            }
            let is_same = logs.iter().all(|other| *other == first);
            (is_same && first.reaches(acknowledged)).then_some(first)
        }
    })
    .await;
    let verdict = Verdict::of(&log, writers);
    verdict.check(writers);
    (log, verdict)
}

/// How far the partitions reach at least, by what was acknowledged.
fn acknowledged_ends(writers: &[Writer]) -> BTreeMap<u64, u64> {
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    for sent in writers.iter().flat_map(|writer| &writer.sent) {
        if let Fate::Acknowledged { partition, offsets } = &sent.fate {
            let end = ends.entry(*partition).or_default();
            *end = (*end).max(offsets.last().map_or(0, |last| last + 1));
        }
    }
    ends
}

/// Readers that follow a topic all the time: each through one node, and one that goes to the next node with each page.
#[derive(Debug)]
pub(crate) struct Observers {
    finish: Arc<AtomicBool>,
    running: JoinSet<Log>,
}

impl Observers {
    pub(crate) fn start(nodes: &[Client], topic: &str) -> Self {
        let nodes: Vec<Client> =
            nodes.iter().map(|node| Client::with_timeout(node.url(), PAGE_MAX)).collect();
        let finish = Arc::new(AtomicBool::new(false));
        let mut itineraries: Vec<Vec<Client>> = nodes.iter().map(|node| vec![node.clone()]).collect();
        itineraries.push(nodes);
        let observe = |nodes| observe(nodes, topic.to_owned(), Arc::clone(&finish));
        let running = itineraries.into_iter().map(observe).collect();
        Self { finish, running }
    }

    /// Ends them, and checks that what any of them ever saw is what a node shows now. Answers how many they were.
    pub(crate) async fn check(mut self, node: &Client, topic: &str) -> usize {
        self.finish.store(true, Ordering::Relaxed);
        let mut count = 0;
        while let Some(seen) = in_time("the observers end", self.running.join_next()).await {
            let seen = seen.expect("an observer sees no gap and no repeat");
            assert!(seen.len() > 0, "an observer saw nothing: the test shows nothing");
            let ends = &seen.ends();
            let log = eventually("a node shows all that was seen", || async move {
                Some(Log::read(node, topic).await).filter(|log| log.reaches(ends))
            });
            assert_eq!(log.await.contradiction(&seen), None, "an observer saw another history");
            count += 1;
        }
        count
    }
}

/// Reads page after page, each through the next node. A node that does not answer, or refuses with 503, is asked again.
async fn observe(nodes: Vec<Client>, topic: String, finish: Arc<AtomicBool>) -> Log {
    let (mut log, mut after) = (Log::default(), "earliest".to_owned());
    for node in nodes.iter().cycle() {
        if finish.load(Ordering::Relaxed) {
            break;
        }
        let path = format!("/v1/topics/{topic}/records?limit=2000&wait=1s&after={after}");
        match node.get(&path).try_send().await {
            Ok(answer) if answer.status != 503 => {
                let page = answer.expect(200).json();
                log.take(page["records"].as_array().expect("a page has records"));
                page["next"].as_str().expect("a page has a next cursor").clone_into(&mut after);
            }
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
    log
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A log with these places of one writer's sequence in partition 0.
    fn log(sequences: &[u64]) -> Log {
        let value = |sequence: &u64| json!({"writer": "Plain-0", "sequence": sequence});
        Log(BTreeMap::from([(0, sequences.iter().map(value).collect())]))
    }

    fn acknowledged(records: std::ops::Range<u64>, offsets: &[u64]) -> Sent {
        Sent { records, fate: Fate::Acknowledged { partition: 0, offsets: offsets.to_vec() } }
    }

    /// What the judge counts: lost, repeated, reordered, refused but stored, stored in part.
    fn broken(log: &Log, sent: Vec<Sent>) -> [u64; 5] {
        let writers = [Writer::that_sent(sent)];
        let Verdict { lost, repeated, reordered, undead, torn, .. } = Verdict::of(log, &writers);
        [lost, repeated, reordered, undead, torn]
    }

    #[test]
    fn the_judge_finds_each_kind_of_broken_promise_and_nothing_else() {
        let two = || vec![acknowledged(0..2, &[0, 1]), acknowledged(2..3, &[2])];
        assert_eq!(broken(&log(&[0, 1, 2]), two()), [0, 0, 0, 0, 0]);
        assert_eq!(broken(&log(&[0, 1]), two()), [1, 0, 0, 0, 0], "the last is lost");
        assert_eq!(broken(&log(&[0, 2, 1]), two()), [2, 0, 0, 0, 0], "not where the receipts said");
        assert_eq!(broken(&log(&[0, 1, 2, 1]), two()), [0, 1, 0, 0, 0], "one is there twice");
        let turned = vec![acknowledged(0..1, &[1]), acknowledged(1..2, &[0])];
        assert_eq!(broken(&log(&[1, 0]), turned), [0, 0, 1, 0, 0], "the later one comes first");
        let with = |fate| vec![acknowledged(0..1, &[0]), Sent { records: 1..3, fate }];
        assert_eq!(broken(&log(&[0, 1, 2]), with(Fate::Refused)), [0, 0, 0, 2, 0]);
        assert_eq!(broken(&log(&[0]), with(Fate::Refused)), [0, 0, 0, 0, 0]);
        assert_eq!(broken(&log(&[0, 1]), with(Fate::Unknown)), [0, 0, 0, 0, 1], "half of a request");
        assert_eq!(broken(&log(&[0, 1, 2]), with(Fate::Unknown)), [0, 0, 0, 0, 0]);
    }

    #[test]
    fn two_logs_contradict_each_other_where_both_have_a_record() {
        let (all, part, other) = (log(&[0, 1, 2]), log(&[0, 1]), log(&[0, 2]));
        assert!(all.contradiction(&part).is_none() && part.contradiction(&all).is_none());
        assert_eq!(
            all.contradiction(&other).map(|(partition, offset, ..)| (partition, offset)),
            Some((0, 1))
        );
        assert!(all.reaches(&part.ends()) && !part.reaches(&all.ends()));
    }
}
