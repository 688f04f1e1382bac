//! The simulator of the shard log: the real state machines and codecs over a simulated store, disk, network and time.
//!
//! Three worlds, each played from one seed on one thread, without a clock:
//! - `world`: several nodes, in half the seeds with journals on disks that fail, and clients, readers and compactors around
//!   one shard on a shared store;
//! - `cluster`: several nodes that share several shards and agree by leases, in a Redis that is wiped, gone or split; clients
//!   delete and create topics meanwhile, and each node has its own copy of them;
//! - `exclusive`: one process with a journal on a disk that fails, on a store of its own.
//!
//! `check` judges the first by the protocol's own definition of the valid log, after each change of the store. What is
//! driven: `Taker`, `LeaderCore` (turns, pending frames, refusals, marks, leftovers, `Writer`), `Reader`, `Walk`,
//! `ShardState`, `Leases`, the gateway's `Replica` of the topics, the journal's writer and replay, the compactor's plan, copy and change, and all codecs. What is not: the
//! async drivers around them.
//!
//! `SIM_SEEDS` and `SIM_MINUTES` make runs longer; `SIM_SEED` plays one seed; if it fails, the last `SIM_LINES` of
//! its trace are shown.

mod check;
mod client;
mod clone;
mod cluster;
mod compactor;
mod config;
mod disk;
mod exclusive;
mod node;
mod reader;
mod rng;
mod stats;
mod store;
mod takeover;
mod world;

use std::str::FromStr;
use std::time::Duration;

use forebay_log::testing::mutation::{self, Mutation};
use tokio::time::Instant;

use crate::check::Violation;
use crate::cluster::{Broken, ClusterStats};
use crate::exclusive::DiskStats;
use crate::stats::{FAULTS, ROWS, Row, Stats};

/// Seeds of one run where nothing else is asked for.
const SHARD_SEEDS: u64 = 10_000;
const DISK_SEEDS: u64 = 3_000;
const CLUSTER_SEEDS: u64 = 500;
const MINUTES: u64 = 3;
/// With so many seeds everything rare must have happened.
const SEEDS_FOR_ALL: u64 = 2_000;
/// Lines of a trace that are printed.
const TRACE_LINES: usize = 200;

/// Seeds that found a fault in the code of their time: (what, world, seed).
const FOUND: [(&str, World, u64); 3] = [
    ("a replayed append was answered in another order than its request's", World::Exclusive, 3),
    ("damage after damage gave offsets of lost records out again", World::Exclusive, 1_660),
    (
        "a topic was called missing that had just replaced another, which its leader knew to be gone",
        World::Cluster,
        33,
    ),
];

/// Where a seed is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    Shard,
    Exclusive,
    Cluster,
}

/// How one seed ended.
struct Played {
    violation: Option<Violation>,
    trace: Vec<String>,
    shard: Stats,
    disk: DiskStats,
    cluster: ClusterStats,
}

impl World {
    fn play(self, seed: u64, traced: bool) -> Played {
        let mut played = Played {
            violation: None,
            trace: Vec::new(),
            shard: Stats::default(),
            disk: DiskStats::default(),
            cluster: ClusterStats::default(),
        };
        let result;
        match self {
            Self::Shard => {
                let run = world::run(seed, traced);
                (result, played.trace, played.shard) = (run.result, run.trace, run.stats);
            }
            Self::Exclusive => {
                let run = exclusive::run(seed, traced);
                (result, played.trace, played.disk) = (run.result, run.trace, run.stats);
            }
            Self::Cluster => {
                let run = cluster::run(seed, traced, None);
                (result, played.trace, played.cluster) = (run.result, run.trace, run.stats);
            }
        }
        played.violation = result.err();
        played
    }

    /// Plays a seed that must be clean; if it is not, says how to play it again and what happened.
    fn must_hold(self, seed: u64) -> Played {
        let played = self.play(seed, false);
        if let Some(violation) = &played.violation {
            let trace = self.play(seed, true).trace;
            let lines = setting("SIM_LINES").unwrap_or(TRACE_LINES);
            let last = trace[trace.len().saturating_sub(lines)..].join("\n");
            let test = match self {
                Self::Shard => "a_shard",
                Self::Exclusive => "a_journal",
                Self::Cluster => "a_cluster",
            };
            let again = format!("SIM_SEED={seed} cargo test -p forebay-tests --test sim {test}");
            panic!("{last}\n\nseed {seed}: {}: {}\n{again}", violation.what, violation.detail);
        }
        played
    }
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().map(|text| text.parse().ok().expect("a number"))
}

/// Plays seeds until there were enough, or the time is up. Returns how many, and how long it took.
fn play_all(world: World, seeds: u64, mut each: impl FnMut(&Played)) -> (u64, Duration) {
    let begun = Instant::now();
    if let Some(seed) = setting("SIM_SEED") {
        each(&world.must_hold(seed));
        return (1, begun.elapsed());
    }
    let seeds = setting("SIM_SEEDS").unwrap_or(seeds);
    let limit = Duration::from_secs(60 * setting("SIM_MINUTES").unwrap_or(MINUTES));
    let mut played = 0;
    while played < seeds && begun.elapsed() < limit {
        each(&world.must_hold(played));
        played += 1;
    }
    (played, begun.elapsed())
}

#[test]
fn a_shard_keeps_its_promises_under_every_fault() {
    let mut total = Stats::default();
    let (played, took) = play_all(World::Shard, SHARD_SEEDS, |played| total.add(&played.shard));
    let speed = total.steps as f64 / took.as_secs_f64();
    println!("{played} seeds in {took:.1?}, {speed:.0} steps per second\n{total}");
    if played < SEEDS_FOR_ALL {
        return;
    }
    for fault in FAULTS {
        assert!(total.faults(fault) > 0, "{fault:?} never happened");
    }
    assert!(total.refusals > 0 && total.proofs > 0 && total.with_leftovers > 0 && total.lingering > 0);
    assert!(total.read_back > 0, "nothing was read back from a journal");
    for row in ROWS.into_iter().filter(|row| *row != Row::TakenByOtherData) {
        assert!(total.rows(row) > 0, "{row:?} never happened");
    }
    assert_eq!(total.rows(Row::TakenByOtherData), 0, "the gap rule makes it impossible");
}

#[test]
fn a_journal_keeps_its_promises_under_every_fault() {
    let mut total = DiskStats::default();
    let (played, took) = play_all(World::Exclusive, DISK_SEEDS, |played| total.add(&played.disk));
    let speed = total.steps as f64 / took.as_secs_f64();
    println!("{played} seeds in {took:.1?}, {speed:.0} steps per second\n{total}");
    if played >= SEEDS_FOR_ALL {
        assert!(total.faults.iter().all(|count| *count > 0), "a fault never happened");
        assert!(total.jumps > 0 && total.dead_journals > 0 && total.full_journals > 0);
    }
}

#[test]
fn a_cluster_settles_and_keeps_its_promises_whatever_becomes_of_redis() {
    let mut total = ClusterStats::default();
    let (played, took) = play_all(World::Cluster, CLUSTER_SEEDS, |played| total.add(played.cluster));
    println!("{played} seeds in {took:.1?}");
    for (what, count) in total.counts() {
        println!("  {what}: {count}");
        assert!(count > 0 || played < CLUSTER_SEEDS, "{what} never happened");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for world in [World::Shard, World::Exclusive, World::Cluster] {
        for seed in 0..20 {
            let [first, second] = [(); 2].map(|()| world.play(seed, true).trace);
            assert!(first.len() > 20, "seed {seed} has a trace");
            let differs = first.iter().zip(&second).position(|(a, b)| a != b);
            assert!(first == second, "{world:?} {seed} differs at line {differs:?}");
        }
    }
}

#[test]
fn seeds_that_found_something_stay_clean() {
    for (what, world, seed) in FOUND {
        println!("{what}");
        world.must_hold(seed);
    }
}

/// Each rule, where it is broken, and within how many seeds that is found.
const BROKEN: [(&str, Mutation, World, u64); 40] = [
    ("M1", Mutation::EpochsDeleted, World::Shard, 100),
    ("M1b", Mutation::OldEpochsDeleted, World::Shard, 100),
    ("M2", Mutation::NoFloorReadAfterEpoch, World::Shard, 2_000),
    ("M3", Mutation::NoFloorReadAfterWalk, World::Shard, 10_000),
    ("M4", Mutation::AckOutOfOrder, World::Shard, 100),
    ("M5", Mutation::RebatchedByNonce, World::Shard, 500),
    ("M5b", Mutation::RebatchedByContent, World::Shard, 500),
    ("M6", Mutation::SpanAboveGap, World::Shard, 100),
    ("M6b", Mutation::SpanByCount, World::Shard, 100),
    ("M7", Mutation::DeleteBeforeFloor, World::Shard, 100),
    ("M8", Mutation::EpochAtFloorLost, World::Shard, 100),
    ("M9", Mutation::EpochBehindHighest, World::Shard, 500),
    ("M10", Mutation::NoEpoch, World::Shard, 100),
    ("M11", Mutation::ReaderJumpsUnchecked, World::Shard, 5_000),
    ("M12", Mutation::NoFloorReadWhenFenced, World::Shard, 10_000),
    ("M13", Mutation::FloorWithoutSwap, World::Shard, 200),
    ("M14", Mutation::EpochWithoutNonce, World::Shard, 100),
    ("M15", Mutation::GoneIsNotStored, World::Shard, 100),
    ("C1", Mutation::ReappliedAfterFloorMoved, World::Shard, 2_000),
    ("refusal", Mutation::RefusalUnproved, World::Shard, 200),
    ("refusal", Mutation::RefusalBeforeDurable, World::Shard, 2_000),
    ("journal", Mutation::AckBeforeSync, World::Exclusive, 50),
    ("journal", Mutation::ReplayPastBadFrame, World::Exclusive, 500),
    ("journal", Mutation::ReplayUnchecked, World::Exclusive, 100),
    ("journal", Mutation::ReplayTwice, World::Exclusive, 50),
    ("journal", Mutation::FolderNotSynced, World::Exclusive, 50),
    ("journal", Mutation::ReadyBeforeReplay, World::Exclusive, 50),
    ("journal", Mutation::AckBeforeJump, World::Exclusive, 5_000),
    ("local", Mutation::SentBeforeMark, World::Shard, 2_000),
    ("local", Mutation::FrozenIgnored, World::Shard, 2_000),
    ("local", Mutation::FrozenIsStored, World::Shard, 2_000),
    ("local", Mutation::SettledIgnored, World::Shard, 2_000),
    ("local", Mutation::AgainUnjudged, World::Shard, 2_000),
    ("local", Mutation::ConditionalLocal, World::Shard, 2_000),
    ("local", Mutation::ObjectAppendedAgain, World::Shard, 2_000),
    ("local", Mutation::LingeringUnsynced, World::Shard, 10_000),
    ("lease", Mutation::LeaseNotMadeAgain, World::Cluster, 500),
    ("lease", Mutation::LeaderNotAsked, World::Cluster, 50),
    ("lease", Mutation::RefusalIgnored, World::Cluster, 50),
    ("lease", Mutation::NeverMoved, World::Cluster, 50),
];

#[test]
fn every_broken_rule_is_found() {
    let mut missed = Vec::new();
    println!(
        "{:<8}{:<26}{:<14}{:>7}{:>8}  how it showed",
        "case", "broken rule", "violated", "seeds", "limit"
    );
    for (case, broken, world, limit) in BROKEN {
        let found = mutation::with(broken, || {
            (0..limit).find_map(|seed| {
                let played = world.play(seed, false);
                played.violation.map(|violation| (seed + 1, violation))
            })
        });
        let name = format!("{broken:?}");
        match found {
            Some((seeds, Violation { what, detail })) => {
                println!("{case:<8}{name:<26}{what:<14}{seeds:>7}{limit:>8}  {detail}");
            }
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// Each rule of the topics' copies, and within how many seeds it is found that it is broken.
const BROKEN_TOPICS: [(Broken, u64); 8] = [
    (Broken::DeleteNotWaited, 100),
    (Broken::Unconfirmed, 500),
    (Broken::AsOfTheAnswer, 500),
    (Broken::MissNotLookedFor, 100),
    (Broken::VersionNotCarried, 100),
    (Broken::UnitNotAsked, 500),
    (Broken::GoneIsMissing, 500),
    (Broken::OldBelieved, 100),
];

#[test]
fn every_broken_rule_of_topics_is_found() {
    let mut missed = Vec::new();
    for (broken, limit) in BROKEN_TOPICS {
        let found = (0..limit).find_map(|seed| {
            cluster::run(seed, false, Some(broken)).result.err().map(|found| (seed + 1, found))
        });
        match found {
            Some((seeds, Violation { what, detail })) => {
                println!("{broken:?} is found as {what} after {seeds} of {limit} seeds: {detail}");
            }
            None => missed.push(broken),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
