//! The sending end: appends go out in the order in which they were handed over, and answers find those who wait.
//!
//! An append is *written* once the connection has asked for it. Whatever is dropped before that was never sent, and says
//! so; whatever is dropped after it is of unknown outcome. Nothing else has to be kept straight when a stream breaks.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use forebay_log::error::{FormatError, Outcome};
use forebay_log::limits as log_limits;
use forebay_log::model::{LeaderEpoch, ShardId};
use forebay_log::shard::{AppendError, Completion, Receipt};
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::wire::{self, Answer, EncodedAppend, Head};
use crate::cluster::call::Call;
use crate::cluster::dial::Dialer;
use crate::cluster::error::PeerError;
use crate::cluster::frame::{FRAME, FrameBuffer, FrameReader};
use crate::cluster::{LocalShards, Via};
use crate::limits;

/// Bytes that one permit of a stream's room stands for.
const PERMIT_BYTES: usize = 1024;
const NOT_APPLIED: AppendError = AppendError::NoLeader { outcome: Outcome::NotApplied };

/// The way to a shard's leader on another node. Cloning is cheap.
///
/// Its streams come and go: a new one is opened after one broke, or was refused.
#[derive(Debug, Clone)]
pub struct RemoteShard(Arc<Remote>);

#[derive(Debug)]
struct Remote {
    dialer: Arc<Dialer>,
    local: Arc<dyn LocalShards>,
    address: String,
    shard: ShardId,
    epoch: LeaderEpoch,
    stream: Mutex<Option<Arc<AppendStream>>>,
}

impl RemoteShard {
    pub(in crate::cluster) fn new(
        dialer: Arc<Dialer>,
        local: Arc<dyn LocalShards>,
        address: &str,
        shard: ShardId,
        epoch: LeaderEpoch,
    ) -> Self {
        let (address, stream) = (address.to_owned(), Mutex::default());
        Self(Arc::new(Remote { dialer, local, address, shard, epoch, stream }))
    }

    /// Returns the epoch it leads with.
    pub fn epoch(&self) -> LeaderEpoch {
        self.0.epoch
    }

    /// Returns the stream that appends go over now; a new one, which connects by itself, if there is none of use.
    pub fn stream(&self) -> Arc<AppendStream> {
        let mut current = self.0.stream.lock();
        if let Some(stream) = current.as_ref().filter(|stream| stream.is_usable()) {
            return Arc::clone(stream);
        }
        let stream = Arc::new(AppendStream::open(&self.0));
        *current = Some(Arc::clone(&stream));
        stream
    }
}

/// One stream of appends. It ends when it is dropped, once all it has written is answered.
#[derive(Debug)]
pub struct AppendStream {
    via: Via,
    numbers: AtomicU64,
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// An append that was handed to a stream.
#[derive(Debug)]
pub struct Sent {
    /// Where its answer will be.
    pub receipt: Receipt,
    /// What names it to the next append of its request.
    pub number: u64,
}

impl AppendStream {
    fn open(remote: &Remote) -> Self {
        let (queue, queued) = mpsc::channel(limits::FORWARDS_MAX);
        let shared =
            Arc::new(Shared { written: Mutex::new(Some(HashMap::new())), refused: AtomicBool::default() });
        let outbox = Outbox {
            queue: queued,
            shared: Arc::clone(&shared),
            local: Arc::clone(&remote.local),
            buffer: FrameBuffer::default(),
            ready: VecDeque::new(),
        };
        let task = Task {
            dialer: Arc::clone(&remote.dialer),
            local: Arc::clone(&remote.local),
            address: remote.address.clone(),
            shard: remote.shard,
            epoch: remote.epoch,
            shared: Arc::clone(&shared),
        };
        tokio::spawn(task.run(outbox));
        let room = Arc::new(Semaphore::new(limits::FORWARD_BYTES_MAX / PERMIT_BYTES));
        Self { via: Via::fresh(), numbers: AtomicU64::new(1), queue, room, shared }
    }

    /// Returns what tells this stream from all others.
    pub fn via(&self) -> Via {
        self.via
    }

    fn is_usable(&self) -> bool {
        let refused = self.shared.refused.load(Ordering::Relaxed);
        !refused && !self.queue.is_closed() && self.shared.written.lock().is_some()
    }

    /// Hands an append to the stream; those handed over one after the other are judged in this order. `after` names the
    /// append before it in its request, or is 0: if the leader has no room for that one, this is refused too.
    ///
    /// # Errors
    /// [`AppendError`]; nothing is stored. Without room for [`log_limits::ADMISSION_WAIT_MAX`] it is refused as
    /// overloaded.
    ///
    /// # Cancel safety
    /// Dropped before it returns, nothing is stored.
    pub async fn enqueue(
        &self,
        append: &EncodedAppend,
        after: u64,
        deadline: Instant,
    ) -> Result<Sent, AppendError> {
        let permits = (append.size_bytes() / PERMIT_BYTES + 1).min(limits::FORWARD_BYTES_MAX / PERMIT_BYTES);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (receipt, completion) = Receipt::elsewhere();
        let admitted = async {
            let room = Arc::clone(&self.room).acquire_many_owned(permits).await;
            let room = room.expect("the semaphore is never closed");
            let waiter = Some(Waiter { completion, _room: room });
            let waiting = Waiting { number, after, append: append.clone(), deadline, waiter };
            self.queue.send(waiting).await.map_err(|_| NOT_APPLIED)
        };
        let admitted = timeout(log_limits::ADMISSION_WAIT_MAX, admitted).await;
        admitted.map_err(|_| AppendError::Overloaded)??;
        Ok(Sent { receipt, number })
    }
}

/// Who waits for an answer, and the room that the append takes until then.
#[derive(Debug)]
struct Waiter {
    completion: Completion,
    _room: OwnedSemaphorePermit,
}

/// An append that is not written yet. Dropped, it says so.
#[derive(Debug)]
struct Waiting {
    number: u64,
    after: u64,
    append: EncodedAppend,
    deadline: Instant,
    waiter: Option<Waiter>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.completion.complete(Err(NOT_APPLIED));
        }
    }
}

/// What both directions of a stream know.
#[derive(Debug)]
struct Shared {
    /// What is written and not answered; none once the stream has ended.
    written: Mutex<Option<HashMap<u64, Waiter>>>,
    /// The other node does not lead: all that follows will be refused too.
    refused: AtomicBool,
}

impl Shared {
    /// Notes that an append is written from now on; tells whether it may be.
    fn write(&self, waiting: &mut Waiting) -> bool {
        let mut written = self.written.lock();
        let Some(written) = written.as_mut() else { return false };
        let Some(waiter) = waiting.waiter.take_if(|waiter| !waiter.completion.is_abandoned()) else {
            return false;
        };
        written.insert(waiting.number, waiter);
        true
    }

    fn answer(&self, number: u64, answer: Result<forebay_log::shard::Appended, AppendError>) -> bool {
        if matches!(answer, Err(AppendError::NoLeader { .. } | AppendError::Draining)) {
            self.refused.store(true, Ordering::Relaxed);
        }
        let waiter = self.written.lock().as_mut().and_then(|written| written.remove(&number));
        let known = waiter.is_some();
        if let Some(waiter) = waiter {
            waiter.completion.complete(answer);
        }
        known
    }

    /// Ends the stream for all who wait.
    fn end(&self, outcome: Outcome) {
        let written = self.written.lock().take();
        for waiter in written.into_iter().flatten().map(|(_, waiter)| waiter) {
            waiter.completion.complete(Err(AppendError::NoLeader { outcome }));
        }
    }
}

/// The receiving side of a stream.
#[derive(Debug)]
struct Task {
    dialer: Arc<Dialer>,
    local: Arc<dyn LocalShards>,
    address: String,
    shard: ShardId,
    epoch: LeaderEpoch,
    shared: Arc<Shared>,
}

impl Task {
    async fn run(self, outbox: Outbox) {
        let ended = self.answers(outbox).await;
        let outcome = match &ended {
            Err(error) if error.is_refusal() => Outcome::NotApplied,
            _ => Outcome::Unknown,
        };
        if let Err(error) = &ended {
            let (address, shard) = (&self.address, self.shard);
            tracing::debug!(address, shard.id = %shard, %error, "a stream of appends ended");
        }
        self.shared.end(outcome);
    }

    async fn answers(&self, outbox: Outbox) -> Result<(), PeerError> {
        let path = Call::Append(self.shard, self.epoch).to_string();
        let answer = self.dialer.call(&self.address, &path, outbox).await?;
        let mut frames = FrameReader::new(answer.into_body());
        while let Some(frame) = frames.next().await? {
            match wire::decode_answer(&frame)? {
                Answer::Of(number, answer) => {
                    if !self.shared.answer(number, answer) {
                        return Err(FormatError::Field { what: FRAME, field: "number" }.into());
                    }
                }
                Answer::Hint(hint) => self.local.learned(self.shard, hint),
            }
        }
        Ok(())
    }
}

/// The request's body: takes appends from the queue when the connection has room for them.
struct Outbox {
    queue: mpsc::Receiver<Waiting>,
    shared: Arc<Shared>,
    local: Arc<dyn LocalShards>,
    buffer: FrameBuffer,
    ready: VecDeque<Bytes>,
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbox").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

impl Outbox {
    fn write(&mut self, mut waiting: Waiting) {
        if !self.shared.write(&mut waiting) {
            return;
        }
        let head = Head {
            number: waiting.number,
            after: waiting.after,
            wait: waiting.deadline.saturating_duration_since(Instant::now()),
            topics_version: self.local.topics_version(),
        };
        self.buffer.push(&wire::frame(&head, &waiting.append));
    }
}

impl Body for Outbox {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        ctx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let mut ended = false;
        if this.ready.is_empty() {
            while this.buffer.len() < limits::PEER_WRITE_BYTES {
                match this.queue.poll_recv(ctx) {
                    Poll::Ready(Some(waiting)) => this.write(waiting),
                    Poll::Ready(None) => {
                        ended = true;
                        break;
                    }
                    Poll::Pending => break,
                }
            }
            this.ready.extend(this.buffer.take());
        }
        match this.ready.pop_front() {
            Some(chunk) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}
