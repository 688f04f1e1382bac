//! The store: whether it answers, how fast, whether it keeps what the log rests on, and whose it is.

use forebay_log::clock::Clock;
use forebay_log::error::FormatError;
use forebay_log::format::cluster::{ClusterFile, CoordinatorKind};
use forebay_log::keys::Keys;
use forebay_log::store::{CreateAnswer, Path, Store, StoreError, StoreUrl};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::{Latency, clock_offset, in_time};
use crate::config::Config;
use crate::limits;
use crate::report::{Report, causes};

pub(super) async fn check(config: &Config, clock: &dyn Clock, rng: &mut StdRng, report: &mut Report) {
    match &config.store {
        StoreUrl::Memory => report.warn("store", "memory: nothing outlives the process"),
        StoreUrl::File(folder) => {
            // Opened it would be locked, and a node that starts just then refused.
            let root = folder.join(Keys::new("").cluster().as_ref());
            match tokio::fs::read(&root).await {
                Ok(body) => cluster(report, ClusterFile::decode(&body)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => none_yet(report),
                Err(error) => report.fail("cluster", format!("cannot read {}: {error}", root.display())),
            }
        }
        _ => bucket(config, clock, rng, report).await,
    }
}

async fn bucket(config: &Config, clock: &dyn Clock, rng: &mut StdRng, report: &mut Report) {
    let store = match Store::open_with(&config.store, &config.s3).await {
        Ok(store) => store,
        Err(error) => return report.fail("store", causes(&error)),
    };
    let keys = Keys::new(config.store.prefix());
    match in_time(store.get(&keys.cluster())).await {
        None => return report.fail("store", format!("{} gives no answer", config.store)),
        Some(Err(error)) => return report.fail("store", causes(&error)),
        Some(Ok(found)) => {
            report.ok("store", format!("{} answers", config.store));
            match found {
                Some(body) => cluster(report, ClusterFile::decode(&body)),
                None => none_yet(report),
            }
        }
    }
    let folder = keys.probes().join(format!("doctor-{:032x}", rng.random::<u128>()));
    match in_time(calls(&store, &folder, clock, report)).await {
        None => report.fail("store.latency", "some calls give no answer"),
        Some(Err(error)) => report.fail("store.latency", causes(&error)),
        Some(Ok(())) => {}
    }
    match in_time(store.probe(&keys.probes(), rng)).await {
        None => report.fail("store.probe", "takes too long"),
        Some(Err(error)) => report.fail("store.probe", causes(&error)),
        Some(Ok(())) => report.ok("store.probe", "keeps what the log rests on"),
    }
}

/// Times small calls, and reads the store's clock off what they stored.
async fn calls(
    store: &Store,
    folder: &Path,
    clock: &dyn Clock,
    report: &mut Report,
) -> Result<(), StoreError> {
    let (mut puts, mut gets) = (Latency::default(), Latency::default());
    let began = clock.now().as_millis();
    for number in 0..limits::DOCTOR_CALLS {
        let key = folder.clone().join(number.to_string());
        let begun = Instant::now();
        match store.create(&key, "forebay doctor".into()).await {
            CreateAnswer::Created => puts.0.push(begun.elapsed()),
            CreateAnswer::Unknown(error) => return Err(error),
            // By an attempt of its own that another part of the store has repeated.
            CreateAnswer::Exists | CreateAnswer::Conflict => {}
        }
        let begun = Instant::now();
        store.get(&key).await?;
        gets.0.push(begun.elapsed());
    }
    let ended = clock.now().as_millis();
    let stored = store.list(folder, None).await?;
    for object in &stored {
        store.delete(&object.location).await?;
    }
    let detail = format!("PUT {}; GET {}", puts.describe(), gets.describe());
    if puts.median() > limits::DOCTOR_PUT_WARN {
        report.warn("store.latency", format!("{detail}: appends at object durability wait as long"));
    } else {
        report.ok("store.latency", detail);
    }
    if let Some(object) = stored.last() {
        // Many stores cut the time to a second.
        let theirs = object.last_modified.timestamp_millis();
        clock_offset(report, "store.clock", theirs, began - 1000..=ended);
    }
    Ok(())
}

fn cluster(report: &mut Report, found: Result<ClusterFile, FormatError>) {
    match found {
        Ok(ClusterFile { id, shards, coordinator, .. }) => {
            let whose = match coordinator {
                CoordinatorKind::Embedded { node } => format!("belongs to the node {node}"),
                CoordinatorKind::Redis {} => "coordinated by Redis".to_owned(),
            };
            report.ok("cluster", format!("id {id}, {shards} shards, {whose}"));
        }
        Err(error) => report.fail("cluster", causes(&error)),
    }
}

fn none_yet(report: &mut Report) {
    report.ok("cluster", "none yet: the first start makes one");
}
