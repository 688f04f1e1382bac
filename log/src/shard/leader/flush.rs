//! When a leader flushes what waits: pure, the time comes from the driver.

use std::time::Duration;

use crate::limits;
use crate::shard::leader::core::AckFrom;

/// The flush to come. Times are counted from when the leader began.
#[derive(Debug)]
pub(super) struct FlushTimer {
    linger: Duration,
    due: Option<Duration>,
    started: Option<Duration>,
}

impl FlushTimer {
    pub(super) fn new(linger: Duration) -> Self {
        Self { linger, due: None, started: None }
    }

    /// Returns when the next flush is due, if anything waits for one.
    pub(super) fn due(&self) -> Option<Duration> {
        self.due
    }

    pub(super) fn is_due(&self, at: Duration) -> bool {
        self.due.is_some_and(|due| due <= at)
    }

    /// Something waits. Behind a journal, and in memory, it is flushed late; where the store acknowledges, on the
    /// leading edge and then once per linger.
    pub(super) fn schedule(&mut self, at: Duration, ack_from: AckFrom) {
        if self.due.is_some() {
            return;
        }
        self.due = Some(match (ack_from, self.started) {
            (AckFrom::Store, Some(started)) => at.max(started + self.linger.min(limits::FLUSH_LINGER)),
            (AckFrom::Store, None) => at,
            (AckFrom::Journal | AckFrom::Memory, _) => at + self.linger,
        });
    }

    /// A flush begins.
    pub(super) fn begin(&mut self, at: Duration) {
        self.started = Some(at);
        self.due = None;
    }

    /// Nothing waits any more, or what waits is due at another time.
    pub(super) fn cancel(&mut self) {
        self.due = None;
    }
}
