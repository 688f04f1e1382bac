//! The simulator of the shard log: the real state machines and codecs over a simulated store, disk and time.

mod check;
mod client;
mod compactor;
mod config;
mod node;
mod reader;
mod rng;
mod stats;
mod store;
mod world;

#[test]
fn smoke() {
    let begun = tokio::time::Instant::now();
    let mut total = stats::Stats::default();
    let seeds: u64 = std::env::var("SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(200);
    let first: u64 = std::env::var("SIM_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        let run = world::run(seed, false);
        total.add(&run.stats);
        if let Err(v) = run.result {
            let again = world::run(seed, true);
            println!("{}", again.last_lines());
            panic!("seed {seed}: {v:?}");
        }
    }
    println!("{total}{:?} steps/s {}", begun.elapsed(), total.steps as f64 / begun.elapsed().as_secs_f64());
}

#[test]
fn mutants() {
    use forebay_log::testing::mutation::{Mutation::*, with};
    let limit: u64 = std::env::var("SIM_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20_000);
    for m in [
        EpochsDeleted,
        OldEpochsDeleted,
        NoFloorReadAfterEpoch,
        NoFloorReadAfterWalk,
        AckOutOfOrder,
        RebatchedByNonce,
        RebatchedByContent,
        SpanAboveGap,
        SpanByCount,
        DeleteBeforeFloor,
        EpochAtFloorLost,
        EpochBehindHighest,
        NoEpoch,
        ReaderJumpsUnchecked,
        NoFloorReadWhenFenced,
        FloorWithoutSwap,
        EpochWithoutNonce,
        GoneIsNotStored,
        ReappliedAfterFloorMoved,
    ] {
        let begun = tokio::time::Instant::now();
        let found =
            with(m, || (0..limit).find_map(|seed| world::run(seed, false).result.err().map(|v| (seed, v))));
        println!("{m:?}: {found:?} {:?}", begun.elapsed());
    }
}
