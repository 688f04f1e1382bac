//! Carries out what the [replica](super::replica) wants: looks in the background, and waiting for them.

use std::sync::Arc;
use std::time::Duration;

use forebay_log::format::topics::TopicsFile;
use forebay_log::store::{Register, Revision};
use tokio::time::Instant;

use crate::limits;
use crate::topics::replica::{Found, Replica, Step};
use crate::topics::{Topics, TopicsError};

/// Ends a look, also one that panics.
struct Running<'a> {
    topics: &'a Topics,
    succeeded: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.topics.replica.write().end_look(self.succeeded, Instant::now());
        self.topics.looked.send_replace(());
    }
}

impl Topics {
    /// Asks the replica until it answers.
    pub(super) async fn ask<T>(self: &Arc<Self>, next: impl Fn(&Replica<Revision>, Instant) -> Step<T>) -> T {
        let ask = || next(&self.replica.read(), Instant::now());
        if let Step::Done(answer) = ask() {
            return answer;
        }
        let mut looked = self.looked.subscribe();
        loop {
            match ask() {
                Step::Done(answer) => return answer,
                Step::Look => self.look(),
                Step::Wait(until) => tokio::select! {
                    _ = looked.changed() => {}
                    () = tokio::time::sleep_until(until) => {}
                },
            }
        }
    }

    /// Asks the replica for a request that begins.
    pub(super) async fn ask_anew<T>(
        self: &Arc<Self>,
        asked: Instant,
        next: impl Fn(&Replica<Revision>, Instant) -> Step<T>,
    ) -> T {
        if self.replica.read().is_due(asked) {
            self.look();
        }
        self.ask(next).await
    }

    /// Waits until the copy is fit for somebody who asked at a moment and trusts copies of this age.
    ///
    /// # Errors
    /// [`TopicsError::Stale`], once a look that began later has failed, or after [`limits::TOPICS_WAIT_MAX`].
    pub(super) async fn confirmed(
        self: &Arc<Self>,
        asked: Instant,
        trust: Duration,
    ) -> Result<(), TopicsError> {
        self.ask(|replica, now| replica.confirm(asked, trust, now)).await
    }

    /// Begins a look in the background, if one may begin now.
    pub(super) fn look(self: &Arc<Self>) {
        if !self.replica.write().begin_look(Instant::now()) {
            return;
        }
        let topics = Arc::clone(self);
        tokio::spawn(async move {
            let mut running = Running { topics: &topics, succeeded: false };
            let look = tokio::time::timeout(limits::TOPICS_LOOK_MAX, topics.read_again());
            match look.await.unwrap_or(Err(TopicsError::Stale)) {
                Ok(()) => running.succeeded = true,
                Err(error) => tracing::warn!(%error, "the topics could not be read again"),
            }
        });
    }

    /// Reads the register if it has changed, and takes it over.
    ///
    /// # Errors
    /// [`TopicsError`]; the copy is as it was.
    pub(super) async fn read_again(&self) -> Result<(), TopicsError> {
        let reading = self.replica.read().read(Instant::now());
        let key = self.keys.topics();
        let found = match self.store.read_register_if_changed(&key, reading.revision.as_ref()).await? {
            Register::Changed(found) => Found::Content(TopicsFile::decode(&found.body)?, found.revision),
            Register::Absent => Found::Absent,
            Register::Unchanged => Found::Unchanged,
        };
        let gone = self.replica.write().take(&reading, found)?;
        self.tell_gone(gone);
        Ok(())
    }
}
