//! What happens, when, and to whom.

use bytes::Bytes;
use forebay_log::coordinator::lease;
use forebay_log::coordinator::{Lease, NodeInfo};
use forebay_log::format::topics::TopicsFile;
use forebay_log::model::{ShardId, TopicId};
use forebay_log::shard::taker::PutAnswer;

use super::change::{SwapAnswer, Wish};
use super::client::{Heard, Request};
use super::produce::Routed;
use super::redis::{Call, Redis};
use super::topics::Shown;
use crate::config::Micros;

/// One leadership: what comes for an earlier one is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Led {
    pub(super) node: usize,
    pub(super) life: u64,
    pub(super) shard: usize,
    pub(super) epoch: u32,
}

/// What a leader reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Read {
    Back,
    Floor,
    Proof,
}

#[derive(Debug)]
pub(crate) enum Event {
    /// A node's lease machine wants to be woken.
    Wake {
        node: usize,
        life: u64,
    },
    /// Something becomes known to it.
    Told {
        node: usize,
        life: u64,
        event: lease::Event,
    },
    /// A call reaches Redis.
    Call {
        node: usize,
        life: u64,
        call: Call,
    },
    /// A probe reaches whoever has the address.
    Probe {
        node: usize,
        life: u64,
        shard: ShardId,
        whom: Lease,
    },
    /// A taker reaches the store.
    TakeOver {
        node: usize,
        life: u64,
        shard: usize,
    },
    /// A leader that is to give its shard away has asked the successor.
    HandOver {
        led: Led,
        to: Option<NodeInfo>,
    },
    /// One that has not stored everything in time gives its shard away all the same.
    GiveUp {
        led: Led,
    },
    /// A predecessor tells the successor to lead.
    Lead {
        node: usize,
        life: u64,
        from: Led,
    },
    /// A leader looks whether it still leads.
    Doubt {
        led: Led,
    },
    /// A PUT reaches the store.
    Put {
        led: Led,
        seq: u64,
        bytes: Bytes,
        answered: bool,
    },
    PutAnswered {
        led: Led,
        seq: u64,
        answer: PutAnswer,
    },
    Read {
        led: Led,
        seq: u64,
        what: Read,
    },
    Flush {
        led: Led,
    },
    Journal {
        node: usize,
        life: u64,
    },
    /// A leader gets what it reads back from the journal.
    Load {
        led: Led,
    },
    /// A node looks whether the leaders it follows are there.
    Follow {
        node: usize,
        life: u64,
    },
    Start {
        node: usize,
    },
    /// A request reaches a node from its client.
    Request {
        node: usize,
        request: Request,
    },
    /// One that has found its topic reaches another node.
    Forwarded {
        node: usize,
        routed: Routed,
    },
    /// A node hears that a leader knows the topic of a request to be gone.
    Gone {
        node: usize,
        request: Request,
        gone: TopicId,
    },
    /// Whoever waits for a look asks again.
    AskAgain {
        node: usize,
        life: u64,
    },
    /// A read of the topics' register reaches the store.
    RegisterRead {
        node: usize,
        life: u64,
        call: u64,
        revision: Option<u64>,
        version: u64,
    },
    RegisterShown {
        node: usize,
        life: u64,
        call: u64,
        shown: Shown,
    },
    /// Somebody changes a topic.
    Somebody,
    /// A change reaches a node.
    Change {
        node: usize,
        wish: Wish,
        name: usize,
    },
    /// A swap of the register reaches the store.
    SwapLands {
        node: usize,
        life: u64,
        call: u64,
        revision: u64,
        file: TopicsFile,
    },
    SwapAnswered {
        node: usize,
        life: u64,
        call: u64,
        answer: SwapAnswer,
    },
    /// A node answers a deletion.
    DeleteAnswered {
        node: usize,
        life: u64,
        id: TopicId,
    },
    /// A node hears that the register has this version.
    Hint {
        node: usize,
        life: u64,
        version: u64,
    },
    /// Redis is replaced by an older copy of itself.
    RollBack {
        copy: Box<Redis>,
    },
    /// A client acts.
    Client {
        client: usize,
    },
    /// A client hears of an attempt, or gives up waiting.
    Result {
        client: usize,
        attempt: u64,
        result: Option<Heard>,
    },
    /// Something fails.
    Fault,
}

impl Event {
    /// Returns the node whose process must run for this to happen.
    pub(super) fn at_node(&self) -> Option<usize> {
        match self {
            Self::Wake { node, .. }
            | Self::Told { node, .. }
            | Self::Lead { node, .. }
            | Self::Journal { node, .. }
            | Self::Follow { node, .. }
            | Self::Request { node, .. }
            | Self::Forwarded { node, .. }
            | Self::Gone { node, .. }
            | Self::AskAgain { node, .. }
            | Self::RegisterShown { node, .. }
            | Self::Change { node, .. }
            | Self::SwapAnswered { node, .. }
            | Self::DeleteAnswered { node, .. }
            | Self::Hint { node, .. }
            | Self::TakeOver { node, .. } => Some(*node),
            Self::PutAnswered { led, .. }
            | Self::Read { led, .. }
            | Self::Flush { led }
            | Self::Load { led }
            | Self::HandOver { led, .. }
            | Self::GiveUp { led }
            | Self::Doubt { led } => Some(led.node),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Scheduled {
    pub(super) event: Event,
    pub(super) at: Micros,
    pub(super) tie: u64,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.tie) == (other.at, other.tie)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.tie).cmp(&(other.at, other.tie))
    }
}
