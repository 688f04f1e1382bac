//! What happened in all runs: faults by kind, rows of the PUT outcome table, steps and simulated time.

use std::fmt;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    LateLanding,
    LostReply,
    DuplicateLanding,
    Conflict,
    Unavailable,
    Reset,
    SlowTail,
    Outage,
    GoneAfterTaken,
    UnsortedList,
    DeletedBelowFloor,
    Stall,
    Crash,
    RacingTakers,
    StaleCompactor,
    StaleReader,
    SwapConflict,
    LateMessage,
    ClientGaveUp,
}

/// A row of the protocol's PUT outcome table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    Created,
    CreatedAgain,
    TakenByMine,
    TakenByEpoch,
    TakenByVoidEpoch,
    TakenThenGone,
    TakenByOtherData,
    ConflictThenAbsent,
    ConflictThenTaken,
    NoAnswer,
    ResolvedThenGone,
}

pub(crate) const FAULTS: [Fault; 19] = [
    Fault::LateLanding,
    Fault::LostReply,
    Fault::DuplicateLanding,
    Fault::Conflict,
    Fault::Unavailable,
    Fault::Reset,
    Fault::SlowTail,
    Fault::Outage,
    Fault::GoneAfterTaken,
    Fault::UnsortedList,
    Fault::DeletedBelowFloor,
    Fault::Stall,
    Fault::Crash,
    Fault::RacingTakers,
    Fault::StaleCompactor,
    Fault::StaleReader,
    Fault::SwapConflict,
    Fault::LateMessage,
    Fault::ClientGaveUp,
];

pub(crate) const ROWS: [Row; 11] = [
    Row::Created,
    Row::CreatedAgain,
    Row::TakenByMine,
    Row::TakenByEpoch,
    Row::TakenByVoidEpoch,
    Row::TakenThenGone,
    Row::TakenByOtherData,
    Row::ConflictThenAbsent,
    Row::ConflictThenTaken,
    Row::NoAnswer,
    Row::ResolvedThenGone,
];

/// Counts over one or many seeds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stats {
    pub(crate) steps: u64,
    pub(crate) micros: u64,
    pub(crate) requests: u64,
    pub(crate) acked: u64,
    pub(crate) leaders: u64,
    pub(crate) rolls: u64,
    pub(crate) delivered: u64,
    /// Conditional appends refused for an offset that was not the log's end any more.
    pub(crate) stale_refusals: u64,
    faults: [u64; FAULTS.len()],
    rows: [u64; ROWS.len()],
}

impl Stats {
    pub(crate) fn fault(&mut self, fault: Fault) {
        self.faults[fault as usize] += 1;
    }

    pub(crate) fn row(&mut self, row: Row) {
        self.rows[row as usize] += 1;
    }

    pub(crate) fn faults(&self, fault: Fault) -> u64 {
        self.faults[fault as usize]
    }

    pub(crate) fn rows(&self, row: Row) -> u64 {
        self.rows[row as usize]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.micros += other.micros;
        self.requests += other.requests;
        self.acked += other.acked;
        self.leaders += other.leaders;
        self.rolls += other.rolls;
        self.delivered += other.delivered;
        self.stale_refusals += other.stale_refusals;
        for (sum, more) in self.faults.iter_mut().zip(other.faults) {
            *sum += more;
        }
        for (sum, more) in self.rows.iter_mut().zip(other.rows) {
            *sum += more;
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.micros as f64 / 3.6e9;
        writeln!(f, "{} steps, {hours:.0} simulated hours, {} requests", self.steps, self.requests)?;
        writeln!(
            f,
            "{} leaderships, {} acknowledged appends, {} records delivered, {} rolls, {} stale refusals",
            self.leaders, self.acked, self.delivered, self.rolls, self.stale_refusals
        )?;
        for fault in FAULTS {
            writeln!(f, "  fault {fault:?}: {}", self.faults(fault))?;
        }
        for row in ROWS {
            writeln!(f, "  row {row:?}: {}", self.rows(row))?;
        }
        Ok(())
    }
}
