//! Reads objects of the path before a walk gets to them, for a walk of one request after the other takes long.
//!
//! The walk decides as if it read each object when it gets there, for only a DATA object that was found may be used
//! early. A path name holds one DATA content, ever, so that what was there is what the walk would find; if it was
//! deleted meanwhile, the floor has passed it, and the look at the floor that ends each walk (T3) or each wait (R4) tells.
//! What was absent may be there by now, and an EPOCH calls for a look at the floor that begins after its read (R3); so
//! both are read anew. Whoever reads the manifest calls [`ReadAhead::forget`], so that each read lies between the two
//! looks at the floor that vouch for it.
//!
//! The number of reads doubles with each DATA object found, from none: at the tail nothing is read ahead.

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;

use crate::format::wal_object::ObjectKind;
use crate::limits;
use crate::model::WalSeq;
use crate::shard::open::{OpenError, ShardStore};
use crate::shard::taker::PathObject;

/// A number and what stands there, if that could be read.
type Read = (WalSeq, Option<PathObject>);

/// The reads of one walk.
#[derive(Debug)]
pub(super) struct ReadAhead {
    at: ShardStore,
    reads: FuturesOrdered<BoxFuture<'static, Read>>,
    /// The number behind those being read.
    next: WalSeq,
    window: usize,
}

impl ReadAhead {
    pub(super) fn new(at: ShardStore) -> Self {
        Self { at, reads: FuturesOrdered::new(), next: WalSeq::ZERO, window: 0 }
    }

    /// Reads header and index of the object at a number of the path.
    ///
    /// # Errors
    /// As [`ShardStore::wal_object`].
    pub(super) async fn object(&mut self, seq: WalSeq) -> Result<Option<PathObject>, OpenError> {
        let found = match self.take(seq).await {
            Some(object) => Ok(Some(object)),
            None => self.at.wal_object(seq).await,
        };
        match &found {
            Ok(Some(object)) if is_data(object) => self.extend(seq),
            _ => self.forget(),
        }
        found
    }

    /// Drops what was read.
    pub(super) fn forget(&mut self) {
        self.reads = FuturesOrdered::new();
        self.window = 0;
    }

    async fn take(&mut self, seq: WalSeq) -> Option<PathObject> {
        if seq >= self.next {
            self.forget();
        }
        while let Some((at, found)) = self.reads.next().await {
            if at == seq {
                return found.filter(is_data);
            }
        }
        None
    }

    fn extend(&mut self, seq: WalSeq) {
        self.window = (2 * self.window).clamp(1, limits::READ_AHEAD_MAX);
        if self.reads.is_empty() {
            self.next = seq.plus(1);
        }
        while self.reads.len() < self.window {
            let (at, seq) = (self.at.clone(), self.next);
            // What cannot be read now is read again when the walk gets there.
            self.reads.push_back(Box::pin(async move { (seq, at.wal_object(seq).await.unwrap_or(None)) }));
            self.next = self.next.plus(1);
        }
    }
}

fn is_data(object: &PathObject) -> bool {
    object.header.kind == ObjectKind::Data
}
