//! What every store must keep, whatever goes wrong below it.
//!
//! Each suite takes two handles on the same, empty objects and panics at the first broken promise. Calls that fail
//! without having done anything wrong are repeated, so the suites also run above a [`FaultyStore`] that loses
//! requests and answers. It must not lie, though: no [`Fault::NotFound`], and no [`Fault::LandTwice`] for swaps.
//!
//! [`FaultyStore`]: super::FaultyStore
//! [`Fault::NotFound`]: super::Fault::NotFound
//! [`Fault::LandTwice`]: super::Fault::LandTwice

use bytes::Bytes;
use tokio::task::JoinSet;

use crate::error::Outcome;
use crate::store::{CreateAnswer, Path, PutPayload, Register, Revision, Store, StoreError, Swap};

/// Writers of one race.
const WRITERS: usize = 16;
/// Swaps of each writer.
const SWAPS: usize = 50;
/// Attempts before a failing store is given up.
const PATIENCE: usize = 1_000;

/// Create-only objects: one writer wins, and what is stored stays as it is.
///
/// # Panics
/// If the store breaks a promise.
pub async fn create_only_contract(store: &Store, other: &Store) {
    let key = Path::from("create-only/raced/deep/name");
    let mut racers = JoinSet::new();
    for writer in 0..WRITERS {
        let handle = if writer % 2 == 0 { store } else { other }.clone();
        let key = key.clone();
        racers.spawn(async move { race_create(&handle, &key, body(writer)).await });
    }
    let results = racers.join_all().await;
    let wins = results.iter().filter(|result| result.won).count();
    let created: usize = results.iter().map(|result| result.created).sum();
    assert_eq!(wins, 1, "the stored object is that of one writer");
    assert!(created <= 1, "of {WRITERS} creates {created} were told Created");
    assert!(
        created == 1 || results.iter().any(|result| result.unsettled),
        "a winner whose answers all came knows it"
    );

    let stored = patiently(|| other.get(&key)).await;
    let again = race_create(other, &key, Bytes::from_static(b"too late")).await;
    assert!(!again.won && again.created == 0, "a taken name was created again");
    assert_eq!(patiently(|| store.get(&key)).await, stored, "a taken name changed");

    named_by_content(store, other).await;
}

struct Race {
    /// The stored object is this writer's.
    won: bool,
    /// PUTs answered with `Created`.
    created: usize,
    /// Some answer did not settle it.
    unsettled: bool,
}

/// Creates an object as the log does: by the answers, and by reading back.
async fn race_create(store: &Store, key: &Path, body: Bytes) -> Race {
    let mut race = Race { won: false, created: 0, unsettled: false };
    for _ in 0..PATIENCE {
        match store.create(key, body.clone().into()).await {
            CreateAnswer::Created => race.created += 1,
            CreateAnswer::Exists => {}
            CreateAnswer::Conflict => race.unsettled = true,
            CreateAnswer::Unknown(error) => {
                race.unsettled |= error.outcome() == Outcome::Unknown;
                assert!(error.is_retriable(), "create failed for good: {error:?}");
                continue;
            }
        }
        if let Some(stored) = patiently(|| store.get(key)).await {
            race.won = stored == body;
            return race;
        }
    }
    panic!("create was never settled: key={key}");
}

async fn named_by_content(store: &Store, other: &Store) {
    let key = Path::from("create-only/content/f00d");
    let chunks: Vec<Bytes> = (0..WRITERS).map(body).collect();
    let payload: PutPayload = chunks.iter().cloned().collect();
    let whole = Bytes::from(chunks.concat());
    patiently(|| store.create_named_by_content(&key, payload.clone())).await;
    patiently(|| other.create_named_by_content(&key, whole.clone().into())).await;
    assert_eq!(patiently(|| other.get(&key)).await, Some(whole.clone()));

    let mut changed = whole.to_vec();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    for wrong in [Bytes::from(changed), whole.slice(1..), whole.slice(..whole.len() - 1)] {
        let error = loop {
            match other.create_named_by_content(&key, wrong.clone().into()).await {
                Err(error) if error.is_retriable() => {}
                Err(error) => break error,
                Ok(()) => panic!("a name took a second content"),
            }
        };
        assert!(matches!(error, StoreError::Differs { .. }), "{error:?}");
    }
}

/// Registers: of competing swaps one wins, and none is lost or applied twice.
///
/// # Panics
/// If the store breaks a promise.
pub async fn register_contract(store: &Store, other: &Store) {
    let key = Path::from("registers/counted");
    assert_eq!(patiently(|| store.read_register(&key)).await, None, "a register nobody wrote");
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let handle = if writer % 2 == 0 { store } else { other }.clone();
        let key = key.clone();
        writers.spawn(async move {
            for number in 0..SWAPS {
                add_line(&handle, &key, &format!("{writer}-{number}\n")).await;
            }
        });
    }
    writers.join_all().await;

    let end = patiently(|| other.read_register(&key)).await.expect("it was swapped");
    let text = String::from_utf8(end.body.to_vec()).expect("only text was written");
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), WRITERS * SWAPS, "swaps were lost or applied twice");
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), WRITERS * SWAPS, "a swap was applied twice");

    stale_revisions(store, other).await;
    changes_only(store, other).await;
}

/// Adds a line to a register, exactly once. The body's length is its version number.
async fn add_line(store: &Store, key: &Path, line: &str) {
    let mut may_be_there = false;
    for _ in 0..PATIENCE {
        let current = patiently(|| store.read_register(key)).await;
        let text = current.as_ref().map(|found| found.body.clone()).unwrap_or_default();
        let text = String::from_utf8(text.to_vec()).expect("only text was written");
        if text.lines().any(|found| found == line.trim_end()) {
            assert!(may_be_there, "a conflict had changed the register");
            return;
        }
        let body = Bytes::from(text + line);
        match store.swap(key, current.as_ref().map(|found| &found.revision), body.clone()).await {
            Ok(Swap::Swapped(_)) => return,
            Ok(Swap::Conflict) => {}
            Err(error) => {
                assert!(error.is_retriable(), "swap failed for good: {error:?}");
                may_be_there |= error.outcome() == Outcome::Unknown;
            }
        }
    }
    panic!("swap was never settled: key={key}");
}

async fn stale_revisions(store: &Store, other: &Store) {
    let key = Path::from("registers/stale");
    add_line(store, &key, "first\n").await;
    let first = patiently(|| other.read_register(&key)).await.expect("it was swapped");
    add_line(other, &key, "second\n").await;
    let second = patiently(|| store.read_register(&key)).await.expect("it was swapped");
    assert_ne!(first.revision, second.revision);
    for expected in [None, Some(&first.revision)] {
        // An error is allowed here: after a lost answer nobody can tell.
        if let Ok(swap) = store.swap(&key, expected, Bytes::from_static(b"stale")).await {
            assert_eq!(swap, Swap::Conflict);
        }
        let current = patiently(|| other.read_register(&key)).await;
        assert_eq!(current.as_ref(), Some(&second), "a stale swap changed the register");
    }
    let absent = Path::from("registers/absent");
    if let Ok(swap) = store.swap(&absent, Some(&first.revision), Bytes::from_static(b"stale")).await {
        assert_eq!(swap, Swap::Conflict);
    }
    assert_eq!(patiently(|| store.get(&absent)).await, None, "a swap of nothing wrote something");
}

/// A register tells whether it still holds what a reader has.
async fn changes_only(store: &Store, other: &Store) {
    let key = Path::from("registers/compared");
    let compare = |known: Option<Revision>| {
        let key = &key;
        patiently(move || {
            let known = known.clone();
            async move { other.read_register_if_changed(key, known.as_ref()).await }
        })
    };
    assert_eq!(compare(None).await, Register::Absent);
    add_line(store, &key, "first\n").await;
    let Register::Changed(first) = compare(None).await else { panic!("the first content was not shown") };
    let known = patiently(|| store.read_register(&key)).await.expect("it was swapped");
    assert_eq!(first, known, "two ways to read one content");
    assert_eq!(compare(Some(known.revision)).await, Register::Unchanged);
    add_line(store, &key, "second\n").await;
    let Register::Changed(second) = compare(Some(first.revision)).await else {
        panic!("a change was missed")
    };
    assert_eq!(second.body.as_ref(), b"first\nsecond\n");
    assert_eq!(compare(Some(second.revision)).await, Register::Unchanged);
}

/// Reads, listings and deletes.
///
/// # Panics
/// If the store breaks a promise.
pub async fn reads_contract(store: &Store, other: &Store) {
    let key = Path::from("reads/object");
    assert_eq!(patiently(|| store.get(&key)).await, None);
    assert_eq!(patiently(|| store.get_range(&key, 0..1)).await, None);
    assert_eq!(patiently(|| store.get_range(&key, 1..1)).await, None);
    assert_eq!(patiently(|| store.get_suffix(&key, 1)).await, None);
    let stored = Bytes::from_static(b"0123456789");
    patiently(|| store.create_named_by_content(&key, stored.clone().into())).await;
    assert_eq!(patiently(|| other.get(&key)).await.as_ref(), Some(&stored));
    for (range, expected) in [
        (0..10, "0123456789"),
        (3..5, "34"),
        (8..100, "89"),
        (9..10, "9"),
        (10..11, ""),
        (50..60, ""),
        (4..4, ""),
    ] {
        let found = patiently(|| other.get_range(&key, range.clone())).await;
        assert_eq!(found.as_deref(), Some(expected.as_bytes()), "{range:?}");
    }
    for (len, expected) in [(0, ""), (3, "789"), (10, "0123456789"), (100, "0123456789")] {
        let found = patiently(|| other.get_suffix(&key, len)).await;
        assert_eq!(found, Some((Bytes::from_static(expected.as_bytes()), 10)), "{len}");
    }
    listings(store, other).await;

    for _ in 0..2 {
        patiently(|| store.delete(&key)).await;
        assert_eq!(patiently(|| other.get(&key)).await, None);
    }
}

async fn listings(store: &Store, other: &Store) {
    let folder = Path::from("lists/1");
    assert_eq!(list(store, &folder, None).await, Vec::<Path>::new());
    let wanted: Vec<Path> =
        (0..20).map(|number| folder.clone().join(format!("{:020}", number * 7))).collect();
    let neighbours = [Path::from("lists/10/object"), Path::from("lists/1-object")];
    for key in wanted.iter().rev().chain(&neighbours) {
        patiently(|| store.create_named_by_content(key, Bytes::from_static(b"x").into())).await;
    }
    assert_eq!(list(other, &folder, None).await, wanted);
    assert_eq!(list(other, &folder, Some(&wanted[4])).await, wanted[5..], "the start is not included");
    let between = folder.clone().join(format!("{:020}", 8));
    assert_eq!(list(other, &folder, Some(&between)).await, wanted[2..], "the start need not exist");
    assert_eq!(list(other, &folder, Some(&wanted[19])).await, Vec::<Path>::new());
    let sizes = patiently(|| other.list(&folder, None)).await;
    assert!(sizes.iter().all(|object| object.size == 1));
}

async fn list(store: &Store, folder: &Path, start_after: Option<&Path>) -> Vec<Path> {
    let objects = patiently(|| store.list(folder, start_after)).await;
    objects.into_iter().map(|object| object.location).collect()
}

/// Repeats a call until it succeeds.
async fn patiently<T, F>(call: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, StoreError>>,
{
    for _ in 0..PATIENCE {
        match call().await {
            Ok(value) => return value,
            Err(error) => assert!(error.is_retriable(), "the store failed for good: {error:?}"),
        }
    }
    panic!("the store kept failing");
}

/// Returns bytes that no other writer writes.
fn body(writer: usize) -> Bytes {
    Bytes::from(format!("written by {writer}"))
}
