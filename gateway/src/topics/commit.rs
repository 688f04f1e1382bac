//! Changes that wait on one node share one swap of the register; each gets its own answer.
//!
//! They are applied in order to one content. One that is refused leaves it as it is, so that it spoils nothing for the
//! others. All answers rest on the same content, and the swap proves that it was the current one. Where there is
//! nothing to swap a read proves it, or what one node refuses could contradict what another has just answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_log::format::topics::TopicsFile;
use forebay_log::limits as log_limits;
use forebay_log::store::{Revision, Swap};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::limits;
use crate::topics::change::{Applied, Change, Drawn};
use crate::topics::{Topics, TopicsError};

/// A change, and who waits for its answer.
#[derive(Debug)]
pub(super) struct Pending {
    change: Change,
    answer: oneshot::Sender<Result<Applied, TopicsError>>,
}

impl Topics {
    /// Makes a change together with those that wait. It is done to its end, even if the request that asked for it is
    /// gone: what is in memory would no longer be what is stored.
    pub(super) async fn change(self: &Arc<Self>, change: Change) -> Result<Applied, TopicsError> {
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= limits::TOPIC_CHANGES_MAX {
                return Err(TopicsError::Overloaded);
            }
            waiting.push(Pending { change, answer });
        }
        let topics = Arc::clone(self);
        tokio::spawn(async move { topics.commit_waiting().await });
        // Without an answer the process is about to end, or the change is one that nobody knows how to make.
        answered.await.unwrap_or(Err(TopicsError::Contended))
    }

    async fn commit_waiting(self: &Arc<Self>) {
        let mut ids = self.writer.lock().await;
        let waiting = std::mem::take(&mut *self.waiting.lock());
        if waiting.is_empty() {
            return;
        }
        let answers = self.commit(&mut ids, &waiting).await;
        for (pending, answer) in waiting.into_iter().zip(answers) {
            // Whoever asked may be gone.
            let _ = pending.answer.send(answer);
        }
    }

    /// Makes all changes of a group that can be made, and returns an answer to each.
    async fn commit(
        self: &Arc<Self>,
        ids: &mut StdRng,
        group: &[Pending],
    ) -> Vec<Result<Applied, TopicsError>> {
        let all = |error: TopicsError| group.iter().map(|_| Err(error.clone())).collect();
        let asked = Instant::now();
        for attempt in 0..log_limits::SWAP_ATTEMPTS_MAX {
            if attempt > 0 {
                // Others are at it too: not all of them at the same moment again.
                let most = limits::TOPICS_SWAP_PAUSE_MAX.as_millis().try_into().unwrap_or(u64::MAX);
                tokio::time::sleep(Duration::from_millis(ids.random_range(0..=most))).await;
            }
            let (base, revision) = self.replica.read().base();
            let is_current = !self.shared || self.is_as_of(asked, Duration::ZERO);
            let mut file = TopicsFile::clone(&base);
            let mut drawn = Drawn { ids: &mut *ids, shards: self.shards, now: self.clock.now() };
            let answers: Vec<_> =
                group.iter().map(|pending| pending.change.apply(&mut file, &mut drawn)).collect();
            let proved = if answers.iter().flatten().any(|applied| applied.changed) {
                self.swap(file, revision).await
            } else if is_current {
                Ok(true)
            } else {
                self.confirmed(Instant::now(), Duration::ZERO).await.map(|()| false)
            };
            match proved {
                Ok(true) => return answers,
                Ok(false) => {}
                Err(error) => return all(error),
            }
        }
        all(TopicsError::Contended)
    }

    /// Swaps the register; after a lost race it is read again and false is returned.
    async fn swap(&self, mut file: TopicsFile, revision: Option<Revision>) -> Result<bool, TopicsError> {
        file.version += 1;
        let (version, body): (u64, Bytes) = (file.version, file.encode()?);
        let began = Instant::now();
        match self.store.swap(&self.keys.topics(), revision.as_ref(), body).await {
            Ok(Swap::Swapped(revision)) => {
                let gone = self.replica.write().swapped(file, revision, began);
                self.tell_gone(gone);
                self.written.send_replace(version);
                Ok(true)
            }
            Ok(Swap::Conflict) => self.read_again().await.map(|()| false),
            Err(error) => {
                // It may have happened. Should the store not say, the next change meets a conflict and looks again.
                if let Err(error) = self.read_again().await {
                    tracing::warn!(%error, "the topics are as they were before a change of unknown outcome");
                }
                Err(error.into())
            }
        }
    }
}
