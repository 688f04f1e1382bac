//! What one seed plays with: each seed draws which faults there are and how strong, so that rare ones meet often.

use crate::disk::DiskConfig;
use crate::rng::Rng;

/// Microseconds of simulated time.
pub(crate) type Micros = u64;
pub(crate) const MILLI: Micros = 1_000;
pub(crate) const SECOND: Micros = 1_000 * MILLI;
pub(crate) const MINUTE: Micros = 60 * SECOND;
pub(crate) const HOUR: Micros = 60 * MINUTE;

/// Partitions that clients write to.
pub(crate) const PARTITIONS: usize = 2;

/// The draw of one seed. Shares are of requests; periods are means.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// G, and with it the span.
    pub(crate) gap: u64,
    pub(crate) nodes: usize,
    pub(crate) clients: usize,
    pub(crate) readers: usize,
    pub(crate) compactors: usize,
    /// Events of the part with faults.
    pub(crate) steps: u64,
    /// Between two acts of one actor.
    pub(crate) pace: Micros,
    /// A client gives up on one attempt after this.
    pub(crate) patience: Micros,
    /// Share of clients with producer ids.
    pub(crate) with_ids: f64,
    pub(crate) conditional: f64,
    /// Bytes of frames in one object: small, so that several objects are under way.
    pub(crate) object_bytes: usize,
    /// Bytes of frames in memory before more are in the journal alone.
    pub(crate) spill_bytes: usize,
    pub(crate) linger: Micros,
    /// A node tries to take over although nothing is wrong.
    pub(crate) takeover: f64,
    pub(crate) crash: f64,
    pub(crate) stall: f64,
    pub(crate) stall_max: Micros,
    /// A request lands after its sender gave up.
    pub(crate) late: f64,
    pub(crate) late_max: Micros,
    pub(crate) lost_reply: f64,
    pub(crate) duplicate: f64,
    pub(crate) conflict: f64,
    pub(crate) reset: f64,
    pub(crate) slow: f64,
    /// A burst of 503, or with `outage` a dead store, begins.
    pub(crate) burst: f64,
    pub(crate) outage: f64,
    /// A compactor stops for long between two requests.
    pub(crate) stale_compactor: f64,
    /// So does a reader.
    pub(crate) stale_reader: f64,
    /// Objects that a roll waits for.
    pub(crate) roll_objects: usize,
    /// DATA below the floor is deleted just between a 412 and the read that follows.
    pub(crate) gone: f64,
    pub(crate) sweep: f64,
    /// The store is asked by messages that are lost or late.
    pub(crate) late_message: f64,
    /// Nodes have a journal.
    pub(crate) journals: bool,
    /// Share of appends at `local`.
    pub(crate) local: f64,
    pub(crate) disk: DiskConfig,
    pub(crate) journal_bytes: u64,
    /// Longest that a sync takes.
    pub(crate) sync_max: Micros,
    /// A crash takes the power along.
    pub(crate) power: f64,
    /// Epochs that a manifest lists.
    pub(crate) epochs_kept: usize,
    /// At the end nodes that stand still do so for ever.
    pub(crate) zombies_stay: bool,
}

impl Config {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        // Each fault is off in some seeds, rare in some, frequent in others.
        let mut share = |max: f64| match rng.below(4) {
            0 => 0.0,
            1 => max * 0.1,
            2 => max * 0.4,
            _ => max,
        };
        let [late, lost_reply, duplicate, conflict, reset, slow] =
            [share(0.25), share(0.15), share(0.1), share(0.1), share(0.1), share(0.2)];
        let [crash, stall, takeover, burst, outage] =
            [share(0.04), share(0.15), share(0.3), share(0.004), share(0.001)];
        let [stale_compactor, stale_reader, gone] = [share(0.15), share(0.1), share(0.9)];
        let late_message = share(0.05);
        let disk = DiskConfig {
            no_space: share(0.005),
            failed_sync: share(0.01),
            short_write: share(0.3),
            crash_inside: share(0.02),
        };
        let pace = rng.log_between(100 * MILLI, 60 * SECOND);
        let compactors = [0, 1, 2, 2, 3][rng.index(5)];
        let journals = rng.chance(0.5);
        Self {
            gap: [2, 2, 2, 2, 3, 4, 64][rng.index(7)],
            nodes: rng.between(2, 4) as usize,
            clients: rng.between(1, 4) as usize,
            readers: rng.between(1, 2) as usize,
            compactors,
            steps: rng.log_between(300, 3_000),
            pace,
            patience: rng.log_between(2 * SECOND, 2 * MINUTE),
            with_ids: [0.0, 0.5, 1.0][rng.index(3)],
            conditional: [0.0, 0.2, 0.6][rng.index(3)],
            object_bytes: [1, 200, 4_000][rng.index(3)],
            spill_bytes: [0, 200, 1_000, 64 << 20][rng.index(4)],
            linger: rng.log_between(MILLI, 250 * MILLI),
            takeover,
            crash,
            stall,
            stall_max: pace * rng.log_between(4, 2_000),
            late,
            late_max: rng.log_between(MINUTE, (pace * 1_000).max(MINUTE)),
            lost_reply,
            duplicate,
            conflict,
            reset,
            slow,
            burst,
            outage,
            stale_compactor,
            stale_reader,
            roll_objects: rng.between(1, 5) as usize,
            gone,
            sweep: [0.0, 0.2, 1.0][rng.index(3)],
            late_message,
            journals,
            local: if journals { [0.2, 0.6, 1.0][rng.index(3)] } else { 0.0 },
            disk,
            journal_bytes: [1 << 20, 1 << 20, 8 << 10][rng.index(3)],
            sync_max: [50 * MILLI, 50 * MILLI, 10 * SECOND][rng.index(3)],
            power: [0.0, 0.5, 1.0][rng.index(3)],
            epochs_kept: [256, 2, 6][rng.index(3)],
            // What a node has in its journal only this node can bring back.
            zombies_stay: !journals && rng.chance(0.5),
        }
    }

    /// The same cluster without a fault: what is left is to show that it goes on.
    pub(crate) fn calm(&mut self) {
        for share in [
            &mut self.takeover,
            &mut self.crash,
            &mut self.stall,
            &mut self.late,
            &mut self.lost_reply,
            &mut self.duplicate,
            &mut self.conflict,
            &mut self.reset,
            &mut self.slow,
            &mut self.burst,
            &mut self.outage,
            &mut self.stale_compactor,
            &mut self.stale_reader,
            &mut self.gone,
            &mut self.late_message,
        ] {
            *share = 0.0;
        }
        self.local = 0.0;
        self.disk = DiskConfig::default();
    }
}
