//! Rules of the protocol that the simulator breaks one at a time, to show that it would notice.
//!
//! Where a rule is followed the code asks [`is`] whether it is broken just now. Without the feature `test-util` the
//! answer is a constant `false`, and the question is compiled away. Rules that only a driver follows (what a collector
//! deletes, how a compactor commits, what a disk syncs) are broken in the simulator's drivers by the same switch.

/// One broken rule. The names in brackets are those of the protocol's table of counterexamples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mutation {
    /// An EPOCH below the floor is deleted (M1).
    EpochsDeleted,
    /// All EPOCHs below the floor but the newest are deleted (M1b).
    OldEpochsDeleted,
    /// The floor is not read after the EPOCH landed (M2, rule T5).
    NoFloorReadAfterEpoch,
    /// The floor is not read again after the walk (M3, rule T3).
    NoFloorReadAfterWalk,
    /// Acknowledgements do not wait for lower numbers (M4, rule W3).
    AckOutOfOrder,
    /// A retry carries more than the first attempt, and an object is told by its nonce (M5, rule W1).
    RebatchedByNonce,
    /// A retry carries more than the first attempt, and an object is told by its content (M5b, rule W1).
    RebatchedByContent,
    /// The span is wider than the gap (M6).
    SpanAboveGap,
    /// The window counts PUTs in flight instead of the distance (M6b, rule W2).
    SpanByCount,
    /// A compactor deletes before its commit (M7, rule C2).
    DeleteBeforeFloor,
    /// The epoch at the floor is not stored (M8, rule C1).
    EpochAtFloorLost,
    /// The EPOCH goes behind the highest number found, not to the first absent one (M9, rule T2).
    EpochBehindHighest,
    /// A leader leads without an EPOCH (M10, rule T4).
    NoEpoch,
    /// A reader jumps at an EPOCH without a look at the floor (M11, rule R3).
    ReaderJumpsUnchecked,
    /// A fenced leader calls batches "not stored" without a look at the floor (M12, rule W6).
    NoFloorReadWhenFenced,
    /// A compactor writes the manifest without compare-and-swap (M13, rule C1).
    FloorWithoutSwap,
    /// All EPOCHs carry the same nonce (M14).
    EpochWithoutNonce,
    /// Taken, then gone, is taken for "not stored" (M15).
    GoneIsNotStored,
    /// A compactor commits its result again although the floor has moved (rule C1).
    ReappliedAfterFloorMoved,
    /// A conditional append is refused although another leader may have gone on.
    RefusalUnproved,
    /// A conditional append is refused by what may never be stored.
    RefusalBeforeDurable,
    /// The journal reports frames as synced before they are.
    AckBeforeSync,
    /// Replay goes on behind a frame that cannot be read.
    ReplayPastBadFrame,
    /// Replay does not look at checksums.
    ReplayUnchecked,
    /// Replay takes back what the store already holds.
    ReplayTwice,
    /// The name of a new journal file is not synced.
    FolderNotSynced,
    /// After damage the journal acknowledges before the log says where offsets go on.
    AckBeforeJump,
    /// Appends are taken before the journal is replayed.
    ReadyBeforeReplay,
    /// An object is sent before a synced mark says which journalled appends it holds.
    SentBeforeMark,
    /// Nobody looks whether an append was sent in an epoch that holds it.
    FrozenIgnored,
    /// What was to be sent is taken for stored.
    FrozenIsStored,
    /// Settled marks are passed over.
    SettledIgnored,
    /// What is appended again loses the names by which its producers repeat it.
    AgainUnjudged,
    /// A conditional append is acknowledged by the journal alone.
    ConditionalLocal,
    /// What is in the journal only to be out of memory is appended again too.
    ObjectAppendedAgain,
    /// At the end of a leadership appends at `local` are acknowledged before they are synced.
    LingeringUnsynced,
    /// A beat does not make a lease again that is missing.
    LeaseNotMadeAgain,
    /// Nobody asks the last known leader before it tries to lead.
    LeaderNotAsked,
    /// A process that refuses connections is waited for like one that is silent.
    RefusalIgnored,
    /// A leader never gives its shard to a better one.
    NeverMoved,
}

#[cfg(feature = "test-util")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Tells whether a rule is broken on this thread just now.
#[cfg(feature = "test-util")]
#[inline]
pub fn is(mutation: Mutation) -> bool {
    BROKEN.get() == Some(mutation)
}

/// Tells that no rule is ever broken.
#[cfg(not(feature = "test-util"))]
#[inline]
pub const fn is(_: Mutation) -> bool {
    false
}

/// Runs something on this thread with one rule broken.
#[cfg(feature = "test-util")]
pub fn with<T>(mutation: Mutation, run: impl FnOnce() -> T) -> T {
    struct Mend;
    impl Drop for Mend {
        fn drop(&mut self) {
            BROKEN.set(None);
        }
    }
    BROKEN.set(Some(mutation));
    let _mend = Mend;
    run()
}
