//! Wakes whoever waits for records of a topic.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::model::TopicId;

/// One counter per topic, raised each time a high watermark of the topic moves.
///
/// A reader subscribes *before* it reads, so that nothing falls between its read and its wait.
#[derive(Debug, Clone, Default)]
pub struct Signals {
    topics: Arc<RwLock<HashMap<TopicId, Arc<watch::Sender<u64>>>>>,
}

impl Signals {
    /// Returns a receiver that changes with the topic's high watermarks.
    pub fn subscribe(&self, topic: TopicId) -> watch::Receiver<u64> {
        self.sender(topic).subscribe()
    }

    /// Returns the topics that somebody waits for or will: those with a receiver.
    pub fn subscribed(&self) -> Vec<TopicId> {
        let topics = self.topics.read();
        topics.iter().filter(|(_, sender)| sender.receiver_count() > 0).map(|(topic, _)| *topic).collect()
    }

    /// Wakes the topic's readers.
    pub(crate) fn raise(&self, topic: TopicId) {
        if let Some(sender) = self.topics.read().get(&topic) {
            sender.send_modify(|count| *count += 1);
        }
    }

    /// Forgets a topic that was deleted; its readers see the channel close.
    pub fn forget(&self, topic: TopicId) {
        self.topics.write().remove(&topic);
    }

    fn sender(&self, topic: TopicId) -> Arc<watch::Sender<u64>> {
        if let Some(sender) = self.topics.read().get(&topic) {
            return Arc::clone(sender);
        }
        Arc::clone(self.topics.write().entry(topic).or_insert_with(|| Arc::new(watch::Sender::new(0))))
    }
}
