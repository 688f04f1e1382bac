//! Log lines that are said once in a while, however often their cause occurs.

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits;

/// When the last line was said.
#[derive(Debug, Default)]
pub(super) struct Quiet(Mutex<Option<Instant>>);

impl Quiet {
    /// Tells whether to say it again.
    pub(super) fn may_say(&self) -> bool {
        let (mut last, now) = (self.0.lock(), Instant::now());
        let may = last.is_none_or(|last| now.duration_since(last) >= limits::PEER_COMPLAINT_PAUSE);
        if may {
            *last = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_line_is_said_at_once_and_then_once_in_a_while() {
        let quiet = Quiet::default();
        assert!(quiet.may_say());
        assert!(!quiet.may_say());
        tokio::time::advance(limits::PEER_COMPLAINT_PAUSE).await;
        assert!(quiet.may_say());
    }
}
