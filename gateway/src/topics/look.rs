//! Looking at the register again: when, how often, and who waits for it.
//!
//! A *look* is one conditional read. At most one is under way, whoever wants it waits for the same one, and two begin at
//! least [`limits::TOPICS_LOOK_PAUSE`] apart. Nobody looks unless a request or an open stream asks.

use std::sync::Arc;
use std::time::Duration;

use forebay_log::format::topics::TopicsFile;
use forebay_log::store::Register;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::limits;
use crate::topics::{Topics, TopicsError};

/// What became of looks.
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    /// When the one under way began.
    running: Option<Instant>,
    /// When the last one began.
    begun: Option<Instant>,
    /// When the last one began, if it failed.
    failed: Option<Instant>,
}

impl Look {
    /// Tells whether waiting is likely to be in vain.
    fn is_hopeless(&self, now: Instant) -> bool {
        self.failed.is_some() || self.running.is_some_and(|began| began + limits::TOPICS_WAIT_MAX <= now)
    }

    fn next(&self, now: Instant) -> Instant {
        self.begun.map_or(now, |begun| begun + limits::TOPICS_LOOK_PAUSE)
    }
}

/// The looks of a node.
#[derive(Debug)]
pub(super) struct Looks(watch::Sender<Look>);

impl Default for Looks {
    fn default() -> Self {
        Self(watch::Sender::new(Look::default()))
    }
}

impl Looks {
    /// Begins a look, unless one is under way or one began a moment ago.
    fn begin(&self) -> Option<Instant> {
        let now = Instant::now();
        let begun = self.0.send_if_modified(|look| {
            let free = look.running.is_none() && look.next(now) <= now;
            if free {
                *look = Look { running: Some(now), begun: Some(now), ..*look };
            }
            free
        });
        begun.then_some(now)
    }

    fn end(&self, began: Instant, succeeded: bool) {
        let failed = (!succeeded).then_some(began);
        self.0.send_modify(|look| *look = Look { running: None, failed, ..*look });
    }
}

/// Ends a look, also one that panics.
struct Running<'a> {
    looks: &'a Looks,
    began: Instant,
    succeeded: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.looks.end(self.began, self.succeeded);
    }
}

impl Topics {
    /// Brings the copy up to date for a request that asked at a moment and trusts it for [`limits::TOPICS_TRUST`].
    /// Past half of that the next look begins before anybody has to wait for it. Nobody waits for a store that has just
    /// failed to answer: what is known is what there is.
    pub(super) async fn catch_up(self: &Arc<Self>, asked: Instant) {
        if self.is_as_of(asked, limits::TOPICS_TRUST) {
            if !self.is_as_of(asked, limits::TOPICS_TRUST / 2) {
                self.look();
            }
        } else if self.looks.0.borrow().is_hopeless(asked) {
            self.look();
        } else if let Err(error) = self.confirmed(asked, limits::TOPICS_TRUST).await {
            tracing::debug!(%error, "a request goes on with what is known of the topics");
        }
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
        let mut looks = self.looks.0.subscribe();
        let deadline = asked + limits::TOPICS_WAIT_MAX;
        loop {
            if self.is_as_of(asked, trust) {
                return Ok(());
            }
            let (look, now) = (*looks.borrow_and_update(), Instant::now());
            if now >= deadline || look.failed.is_some_and(|failed| failed >= asked) {
                return Err(TopicsError::Stale);
            }
            let wake = match look.running {
                Some(_) => deadline,
                None => look.next(now).min(deadline),
            };
            if wake <= now {
                self.look();
                continue;
            }
            tokio::select! {
                _ = looks.changed() => {}
                () = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Begins a look in the background, if one may begin now.
    pub(super) fn look(self: &Arc<Self>) {
        let Some(began) = self.looks.begin() else { return };
        let topics = Arc::clone(self);
        tokio::spawn(async move {
            let mut running = Running { looks: &topics.looks, began, succeeded: false };
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
        let began = Instant::now();
        let (revision, known) = {
            let known = self.known.read();
            (known.revision.clone(), known.file.version)
        };
        let key = self.keys.topics();
        let found = match self.store.read_register_if_changed(&key, revision.as_ref()).await? {
            Register::Changed(found) => found,
            Register::Absent if revision.is_some() => return Err(TopicsError::WentBack { found: 0, known }),
            Register::Absent | Register::Unchanged => {
                self.known.write().confirm(began);
                return Ok(());
            }
        };
        let file = TopicsFile::decode(&found.body)?;
        if file.version < known {
            return Err(TopicsError::WentBack { found: file.version, known });
        }
        self.take(file, found.revision, began);
        Ok(())
    }
}
