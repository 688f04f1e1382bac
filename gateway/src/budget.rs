//! Memory that requests share, counted in bytes.
//!
//! Each holder has a small share for nothing, so that small requests never meet the budget; its size times the number of
//! holders belongs to the bound. What a holder needs beyond that it takes from the common room.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Room for so many bytes.
#[derive(Debug, Clone)]
pub struct Budget {
    room: Arc<Semaphore>,
    free: usize,
    /// How many wait for room.
    waiting: watch::Sender<usize>,
}

/// Counts one that waits for as long as it does.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a watch::Sender<usize>) -> Self {
        waiting.send_modify(|waiting| *waiting += 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl Budget {
    /// Makes a budget of `bytes`, with `free` bytes for nothing to each holder.
    pub fn new(bytes: usize, free: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(bytes)), free, waiting: watch::Sender::new(0) }
    }

    /// Returns the share that each holder has for nothing.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Returns the bytes that nobody holds.
    pub fn available(&self) -> usize {
        self.room.available_permits()
    }

    /// Takes room, waiting at most so long for it, in turn with others. None when there is none.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, it has taken nothing.
    pub async fn take(&self, bytes: usize, within: Duration) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).ok()?;
        if let Ok(taken) = Arc::clone(&self.room).try_acquire_many_owned(bytes) {
            return Some(taken);
        }
        let _waiting = Waiting::new(&self.waiting);
        let taken = Arc::clone(&self.room).acquire_many_owned(bytes);
        tokio::time::timeout(within, taken).await.ok()?.ok()
    }

    /// Returns once somebody waits for room.
    pub async fn pressed(&self) {
        // This budget is the sender, so that there is one.
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await;
    }

    /// Takes up to `wanted` bytes at once: less where there is less, at least the free share.
    pub fn grant(&self, wanted: usize) -> Grant {
        let mut bytes = wanted;
        while bytes > self.free {
            let room = u32::try_from(bytes).ok();
            let room = room.and_then(|bytes| Arc::clone(&self.room).try_acquire_many_owned(bytes).ok());
            if room.is_some() {
                return Grant { bytes, free: self.free, room };
            }
            bytes /= 2;
        }
        Grant { bytes: bytes.max(self.free.min(wanted)), free: self.free, room: None }
    }
}

/// Room for an answer's bytes.
#[derive(Debug)]
pub struct Grant {
    bytes: usize,
    free: usize,
    room: Option<OwnedSemaphorePermit>,
}

/// Bytes with the room that they take.
struct Held {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Grant {
    /// Returns how many bytes there is room for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Ties the room to the bytes that it was taken for: it is given back with the last handle to them. What they do not
    /// need is given back at once.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        match self.room {
            Some(mut room) if bytes.len() > self.free => {
                drop(room.split(room.num_permits().saturating_sub(bytes.len())));
                Bytes::from_owner(Held { bytes, _room: room })
            }
            _ => bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_noticed_served_in_turn_and_given_up_in_time() {
        let budget = Budget::new(10, 2);
        let held = budget.take(8, Duration::ZERO).await.unwrap();
        assert!(budget.take(3, Duration::from_secs(1)).await.is_none());
        assert!(budget.take(11, Duration::from_secs(1)).await.is_none(), "more than there ever is");
        let other = budget.clone();
        let waiting = tokio::spawn(async move { other.take(5, Duration::from_secs(9)).await.is_some() });
        budget.pressed().await;
        drop(held);
        assert!(waiting.await.unwrap());
        let calm = tokio::time::timeout(Duration::from_secs(1), budget.pressed()).await;
        assert!(calm.is_err(), "nobody waits any more");
    }

    #[test]
    fn answers_shrink_when_room_does_and_keep_what_they_need_until_they_are_gone() {
        let budget = Budget::new(100, 10);
        let large = budget.grant(80);
        assert_eq!((large.bytes(), budget.available()), (80, 20));
        assert_eq!(budget.grant(80).bytes(), 20, "what there is");
        let sent = large.hold(Bytes::from(vec![0; 30]));
        assert_eq!(budget.available(), 70);
        let last = sent.slice(29..);
        drop(sent);
        assert_eq!(budget.available(), 70, "a handle is left");
        drop(last);
        assert_eq!(budget.available(), 100);
        let _all = budget.grant(100);
        assert_eq!(budget.grant(80).bytes(), 10, "the free share");
        assert_eq!(budget.grant(4).bytes(), 4, "no more than wanted");
        let small = budget.grant(80).hold(Bytes::from(vec![0; 3]));
        assert_eq!((small.len(), budget.available()), (3, 0));
    }
}
