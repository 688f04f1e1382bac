//! What happened in all runs: faults by kind, rows of the PUT outcome table, steps and simulated time.

use std::fmt;

use crate::disk::DISK_FAULTS;

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
    /// Conditional appends refused.
    pub(crate) refusals: u64,
    /// Appends acknowledged at `local`.
    pub(crate) local: u64,
    /// Leaderships that found appends of earlier ones in their journal.
    pub(crate) with_leftovers: u64,
    /// Leaders that ended while somebody waited for their journal.
    pub(crate) lingering: u64,
    /// Objects of which something was read back from a journal.
    pub(crate) read_back: u64,
    /// Records appended again after everything that knew of them was forgotten.
    pub(crate) repeats: u64,
    disk: [u64; DISK_FAULTS.len()],
    /// Reads by which a leader proved that it leads.
    pub(crate) proofs: u64,
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

    pub(crate) fn add_disk(&mut self, faults: [u64; DISK_FAULTS.len()]) {
        for (sum, more) in self.disk.iter_mut().zip(faults) {
            *sum += more;
        }
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
        self.refusals += other.refusals;
        self.proofs += other.proofs;
        self.local += other.local;
        self.with_leftovers += other.with_leftovers;
        self.lingering += other.lingering;
        self.read_back += other.read_back;
        self.repeats += other.repeats;
        self.add_disk(other.disk);
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
            "{} leaderships, {} acknowledged appends, {} records delivered, {} rolls, {} refusals, {} proofs",
            self.leaders, self.acked, self.delivered, self.rolls, self.refusals, self.proofs
        )?;
        writeln!(
            f,
            "{} appends acknowledged at local, {} leaderships with leftovers, {} leaders lingered, {} records repeated late, \
             {} objects read back",
            self.local, self.with_leftovers, self.lingering, self.repeats, self.read_back
        )?;
        for (fault, count) in DISK_FAULTS.iter().zip(self.disk) {
            writeln!(f, "  disk {fault:?}: {count}")?;
        }
        for fault in FAULTS {
            writeln!(f, "  fault {fault:?}: {}", self.faults(fault))?;
        }
        for row in ROWS {
            writeln!(f, "  row {row:?}: {}", self.rows(row))?;
        }
        Ok(())
    }
}
