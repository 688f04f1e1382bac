//! A pulse: one small record each tenth of a second through every node, whatever became of those before. Unlike writers,
//! which may all come to wait for one node that gives no answer, it shows how long the cluster as a whole accepted nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use harness::Client;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

/// Pause between two records through a node.
const BEAT: Duration = Duration::from_millis(100);
/// How long a record waits for its answer.
const ANSWER_MAX: Duration = Duration::from_secs(8);
/// From how long a silence on is remembered, so that it can be seen beside what failed then.
const TOLD: Duration = Duration::from_secs(2);
/// Characters of what a request met instead of an acknowledgement that tell one cause from another.
const CAUSE_CHARS: usize = 60;

/// A time in which nothing was acknowledged, and what requests that ended in it met instead.
#[derive(Debug, Clone)]
pub(crate) struct Silence {
    pub(crate) begun: Instant,
    pub(crate) lasted: Duration,
    pub(crate) instead: BTreeMap<String, u32>,
}

impl Silence {
    fn new() -> Self {
        Self { begun: Instant::now(), lasted: Duration::ZERO, instead: BTreeMap::new() }
    }
}

/// The present silence, the longest one, and those to be told.
#[derive(Debug)]
struct Silences {
    now: Silence,
    longest: Duration,
    told: Vec<Silence>,
}

/// A pulse that goes on until it is dropped.
#[derive(Debug)]
pub(crate) struct Pulse {
    silences: Arc<Mutex<Silences>>,
    _nodes: JoinSet<()>,
}

impl Pulse {
    /// Starts it through these nodes, on a topic that is there and nobody else's.
    pub(crate) fn start(nodes: &[Client], topic: &str) -> Self {
        let silences = Silences { now: Silence::new(), longest: Duration::ZERO, told: Vec::new() };
        let silences = Arc::new(Mutex::new(silences));
        let beat = |(number, node): (usize, &Client)| {
            let node = Client::with_timeout(node.url(), ANSWER_MAX);
            beat(node, number, format!("/v1/topics/{topic}/records"), Arc::clone(&silences))
        };
        let nodes = nodes.iter().enumerate().map(beat).collect();
        Self { silences, _nodes: nodes }
    }

    /// The silences of more than some seconds that ended since this was asked last.
    pub(crate) fn take_silences(&self) -> Vec<Silence> {
        std::mem::take(&mut self.silences.lock().told)
    }

    /// The longest time so far in which nothing was acknowledged.
    pub(crate) fn longest_silence(&self) -> Duration {
        let silences = self.silences.lock();
        silences.longest.max(silences.now.begun.elapsed())
    }
}

/// Sends records through one node, and does not wait for one before it sends the next.
async fn beat(node: Client, number: usize, path: String, silences: Arc<Mutex<Silences>>) {
    let mut beats = tokio::time::interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut calls = JoinSet::new();
    loop {
        beats.tick().await;
        let (call, silences) = (node.post(&path).body("1"), Arc::clone(&silences));
        calls.spawn(async move {
            let met = match call.try_send().await {
                Ok(answer) if answer.status == 201 => return silences.lock().end(),
                Ok(answer) => format!("{} {}", answer.status.as_u16(), answer.json()["detail"]),
                Err(error) if error.is_connect() => "no connection".to_owned(),
                Err(error) if error.is_timeout() => "no answer in time".to_owned(),
                Err(_) => "a cut connection".to_owned(),
            };
            let met: String = format!("node {number}: {met}").chars().take(CAUSE_CHARS).collect();
            *silences.lock().now.instead.entry(met).or_default() += 1;
        });
        while calls.try_join_next().is_some() {}
    }
}

impl Silences {
    /// Ends the present silence, and begins the next.
    fn end(&mut self) {
        let mut ended = std::mem::replace(&mut self.now, Silence::new());
        ended.lasted = ended.begun.elapsed();
        self.longest = self.longest.max(ended.lasted);
        if ended.lasted > TOLD {
            self.told.push(ended);
        }
    }
}
