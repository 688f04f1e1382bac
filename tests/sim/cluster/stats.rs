//! What happened in the runs of this world.

/// What happened in the runs of this world.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ClusterStats {
    pub(crate) steps: u64,
    pub(crate) acked: u64,
    pub(crate) leaderships: u64,
    /// Leaderships that were handed over.
    pub(crate) moves: u64,
    pub(crate) with_leftovers: u64,
    /// Requests that another node than the client's passed on.
    pub(crate) forwarded: u64,
    pub(crate) crashes: u64,
    pub(crate) drains: u64,
    pub(crate) stalls: u64,
    pub(crate) wipes: u64,
    pub(crate) splits: u64,
    pub(crate) rollbacks: u64,
    pub(crate) outages: u64,
    pub(crate) doubts: u64,
    /// Hand-overs that did not wait for the store any longer.
    pub(crate) given_up: u64,
    pub(crate) looks: u64,
    pub(crate) failed_looks: u64,
    pub(crate) went_back: u64,
    pub(crate) deletions: u64,
    pub(crate) recreations: u64,
    pub(crate) grown: u64,
    pub(crate) conflicts: u64,
    pub(crate) missing: u64,
    /// Units of long requests whose topic was deleted since the first.
    pub(crate) units_refused: u64,
    pub(crate) unconfirmed: u64,
    pub(crate) stale_refusals: u64,
    pub(crate) hints_lost: u64,
    pub(crate) cuts: u64,
    pub(crate) blind: u64,
}

impl ClusterStats {
    fn fields(&mut self) -> [(&'static str, &mut u64); 29] {
        [
            ("steps", &mut self.steps),
            ("acknowledged appends", &mut self.acked),
            ("leaderships", &mut self.leaderships),
            ("moves", &mut self.moves),
            ("leaderships with leftovers", &mut self.with_leftovers),
            ("forwarded requests", &mut self.forwarded),
            ("crashes", &mut self.crashes),
            ("drains", &mut self.drains),
            ("stalls", &mut self.stalls),
            ("wipes", &mut self.wipes),
            ("splits", &mut self.splits),
            ("rollbacks", &mut self.rollbacks),
            ("outages", &mut self.outages),
            ("doubts", &mut self.doubts),
            ("hand-overs without a flush", &mut self.given_up),
            ("looks", &mut self.looks),
            ("failed looks", &mut self.failed_looks),
            ("reads of an old register", &mut self.went_back),
            ("deletions", &mut self.deletions),
            ("recreations", &mut self.recreations),
            ("topics that grew", &mut self.grown),
            ("lost races for the register", &mut self.conflicts),
            ("requests told that something is missing", &mut self.missing),
            ("units refused for want of their topic", &mut self.units_refused),
            ("requests refused for want of the register", &mut self.unconfirmed),
            ("appends refused in topics that are gone", &mut self.stale_refusals),
            ("hints lost", &mut self.hints_lost),
            ("cuts", &mut self.cuts),
            ("times without the register", &mut self.blind),
        ]
    }

    pub(crate) fn add(&mut self, mut other: Self) {
        for ((_, sum), (_, more)) in self.fields().into_iter().zip(other.fields()) {
            *sum += *more;
        }
    }

    /// Returns all counts by name.
    pub(crate) fn counts(mut self) -> Vec<(&'static str, u64)> {
        self.fields().into_iter().map(|(name, count)| (name, *count)).collect()
    }
}
