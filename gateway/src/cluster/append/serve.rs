//! The leader's end: hands appends to the shard in the order in which they arrive, and answers as they are acknowledged.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_log::error::Outcome;
use forebay_log::limits as log_limits;
use forebay_log::model::{LeaderEpoch, ShardId};
use forebay_log::shard::{Append, AppendError, Appended, Receipt, Shard};
use futures::FutureExt as _;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::wire::{self, Answer, Head};
use crate::cluster::LocalShards;
use crate::cluster::error::PeerError;
use crate::cluster::frame::{FrameBuffer, FrameReader, PeerBody};
use crate::limits;

/// Serves a stream of appends. Returns the answer's body.
pub(in crate::cluster) fn serve(
    local: Arc<dyn LocalShards>,
    shard: ShardId,
    epoch: LeaderEpoch,
    body: Incoming,
) -> PeerBody {
    let (chunks, answer) = mpsc::channel(limits::PEER_CHUNKS_MAX);
    let (judged, judgements) = mpsc::channel(limits::PEER_CHUNKS_MAX);
    // Chosen once: what is refused for want of a leadership stays refused.
    let leader = local.leader(shard).filter(|leader| leader.epoch() == epoch);
    let admission = Admission {
        local,
        shard,
        leader,
        judged,
        patience: log_limits::ADMISSION_WAIT_MAX,
        refusals: Refusals::default(),
        hinted: false,
    };
    tokio::spawn(async move {
        let (ended, ()) = tokio::join!(admission.run(body), answers(judgements, chunks));
        if let Err(error) = ended {
            tracing::debug!(shard.id = %shard, %error, "a stream of appends broke");
        }
    });
    PeerBody::Stream(answer)
}

/// What became of one frame.
#[derive(Debug)]
enum Judged {
    Admitted { number: u64, receipt: Receipt, until: Instant },
    Answered(Answer),
}

/// Takes appends in order.
#[derive(Debug)]
struct Admission {
    local: Arc<dyn LocalShards>,
    shard: ShardId,
    leader: Option<Shard>,
    judged: mpsc::Sender<Judged>,
    /// How long the next append may wait for room. Appends of a stream wait one after the other, so that the next has
    /// what those before it left, until one gets in.
    patience: Duration,
    refusals: Refusals,
    hinted: bool,
}

impl Admission {
    /// Takes appends until the body ends.
    async fn run(mut self, body: Incoming) -> Result<(), PeerError> {
        let mut frames = FrameReader::new(body);
        while let Some(frame) = frames.next().await? {
            let (head, append) = wire::decode_frame(&frame)?;
            drop(frame);
            let judged = match self.admit(&head, append).await {
                Ok(receipt) => {
                    let until = Instant::now() + head.wait.saturating_sub(limits::FORWARD_MARGIN);
                    Judged::Admitted { number: head.number, receipt, until }
                }
                Err(error) => {
                    self.hint(&error).await;
                    Judged::Answered(Answer::Of(head.number, Err(error)))
                }
            };
            if self.judged.send(judged).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn admit(&mut self, head: &Head, append: Append) -> Result<Receipt, AppendError> {
        let no_leader = AppendError::NoLeader { outcome: Outcome::NotApplied };
        let leader = self.leader.as_ref().ok_or(no_leader)?;
        if self.refusals.holds(head.after) {
            self.refusals.add(head.number);
            return Err(AppendError::Overloaded);
        }
        if head.topics_version > self.local.topics_version() {
            let refreshed = self.local.refresh_topics(head.topics_version);
            // Failing that, it is judged by what is known.
            let _ = timeout(log_limits::ADMISSION_WAIT_MAX, refreshed).await;
        }
        let begun = Instant::now();
        let admitted = timeout(self.patience, leader.enqueue(append)).await;
        match admitted.unwrap_or(Err(AppendError::Overloaded)) {
            Err(AppendError::Overloaded) => {
                self.patience = self.patience.saturating_sub(begun.elapsed());
                self.refusals.add(head.number);
                Err(AppendError::Overloaded)
            }
            admitted => {
                self.patience = log_limits::ADMISSION_WAIT_MAX;
                admitted
            }
        }
    }

    /// Says once who leads instead.
    async fn hint(&mut self, error: &AppendError) {
        let for_want_of_a_leader = matches!(error, AppendError::NoLeader { .. } | AppendError::Draining);
        if !for_want_of_a_leader || std::mem::replace(&mut self.hinted, true) {
            return;
        }
        let hint = self.local.hint(self.shard);
        if let Some(hint) = hint.filter(|hint| hint.epoch > LeaderEpoch::ZERO) {
            // Who is gone needs no hint.
            let _ = self.judged.send(Judged::Answered(Answer::Hint(hint))).await;
        }
    }
}

/// Appends that were refused for want of room, so that nothing of their requests is stored behind them.
#[derive(Debug, Default)]
struct Refusals {
    numbers: HashSet<u64>,
    oldest_first: VecDeque<u64>,
}

impl Refusals {
    fn holds(&self, number: u64) -> bool {
        self.numbers.contains(&number)
    }

    fn add(&mut self, number: u64) {
        self.numbers.insert(number);
        self.oldest_first.push_back(number);
        if self.oldest_first.len() > limits::FORWARD_REFUSALS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.numbers.remove(&oldest);
        }
    }
}

/// Sends answers as they come, until there is nothing more to answer, or nobody to answer.
async fn answers(mut judgements: mpsc::Receiver<Judged>, chunks: mpsc::Sender<Bytes>) {
    let mut admitted = FuturesUnordered::new();
    let mut buffer = FrameBuffer::default();
    let mut open = true;
    while open || !admitted.is_empty() {
        let answer = tokio::select! {
            Some(answer) = admitted.next(), if !admitted.is_empty() => answer,
            judged = judgements.recv(), if open && admitted.len() < limits::FORWARDS_MAX => match judged {
                Some(Judged::Admitted { number, receipt, until }) => {
                    admitted.push(acknowledged(number, receipt, until));
                    continue;
                }
                Some(Judged::Answered(answer)) => answer,
                None => {
                    open = false;
                    continue;
                }
            },
            () = chunks.closed() => return,
        };
        buffer.push(&[wire::encode_answer(&answer)]);
        // What is acknowledged together goes out together.
        while buffer.len() < limits::PEER_WRITE_BYTES
            && let Some(Some(answer)) = admitted.next().now_or_never()
        {
            buffer.push(&[wire::encode_answer(&answer)]);
        }
        for chunk in buffer.take() {
            if chunks.send(chunk).await.is_err() {
                return;
            }
        }
    }
}

async fn acknowledged(number: u64, receipt: Receipt, until: Instant) -> Answer {
    let wait = until.saturating_duration_since(Instant::now());
    let answer: Result<Appended, AppendError> = receipt.acknowledged_within(wait).await;
    Answer::Of(number, answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_remembered_as_long_as_there_is_room() {
        let mut refusals = Refusals::default();
        assert!(!refusals.holds(0), "an append that follows none is not refused for it");
        for number in 1..=limits::FORWARD_REFUSALS_MAX as u64 + 1 {
            refusals.add(number);
        }
        assert!(!refusals.holds(1));
        assert!(refusals.holds(2) && refusals.holds(limits::FORWARD_REFUSALS_MAX as u64 + 1));
    }
}
