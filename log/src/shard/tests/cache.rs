use std::sync::Arc;

use super::index::{Indexed, P, batch, tail};
use super::*;
use crate::format::wal_object::IndexEntry;
use crate::limits;
use crate::shard::cache::BlockCache;
use crate::shard::fetch::{FetchError, Fetched};
use crate::store::{Operation, Store, StoreUrl};
use crate::testing::{Fault, FaultyStore, Moment};

/// So small that one of the test's blocks takes one permit of room.
const TINY: usize = 64 * 1024;

async fn indexed(cache_bytes: usize) -> (Arc<Indexed>, FaultyStore) {
    let faulty = FaultyStore::new(Store::open(&StoreUrl::Memory).await.unwrap().objects(), 1);
    let store = Store::with_objects(Arc::new(faulty.clone()), true);
    (Arc::new(Indexed::over(store, BlockCache::new(cache_bytes))), faulty)
}

/// WAL objects with one record each, at offsets from 0.
async fn objects(indexed: &Indexed, count: u64) {
    for number in 0..count {
        indexed.add(64 + number, &[(P, number, number + 1)]).await;
    }
}

async fn fetch(indexed: &Indexed, from: u64) -> Result<Fetched, FetchError> {
    indexed.index.fetch(partition(P), Offset::new(from), 1).await
}

/// Lets tasks that can go on do so.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn readers_of_one_run_share_one_get() {
    let (indexed, faulty) = indexed(limits::CACHE_BYTES_MIN).await;
    objects(&indexed, 1).await;
    let hold = faulty.hold(Operation::Get, Moment::Request);
    let release = async {
        hold.arrived(1).await;
        settle().await;
        hold.release();
    };
    let (a, b, c, ()) = tokio::join!(fetch(&indexed, 0), fetch(&indexed, 0), fetch(&indexed, 0), release);
    for fetched in [a, b, c, fetch(&indexed, 0).await] {
        assert_eq!(fetched.unwrap().next, Offset::new(1));
    }
    assert_eq!(faulty.calls(Operation::Get), 1);
}

#[tokio::test]
async fn a_get_goes_on_when_its_reader_goes_away() {
    let (indexed, faulty) = indexed(limits::CACHE_BYTES_MIN).await;
    objects(&indexed, 1).await;
    let hold = faulty.hold(Operation::Get, Moment::Request);
    let reader = tokio::spawn({
        let indexed = Arc::clone(&indexed);
        async move { fetch(&indexed, 0).await.map(|_| ()) }
    });
    hold.arrived(1).await;
    reader.abort();
    assert!(reader.await.unwrap_err().is_cancelled());
    hold.release();
    assert_eq!(fetch(&indexed, 0).await.unwrap().next, Offset::new(1));
    assert_eq!(faulty.calls(Operation::Get), 1);
}

#[tokio::test]
async fn a_failed_get_fails_all_who_wait_for_it_and_is_tried_again() {
    let (indexed, faulty) = indexed(limits::CACHE_BYTES_MIN).await;
    objects(&indexed, 1).await;
    faulty.inject(Operation::Get, Fault::Fail);
    let (a, b) = tokio::join!(fetch(&indexed, 0), fetch(&indexed, 0));
    for failed in [a, b] {
        assert!(matches!(failed, Err(FetchError::Unavailable(Some(_)))), "{failed:?}");
    }
    assert_eq!(fetch(&indexed, 0).await.unwrap().next, Offset::new(1));
    assert_eq!(faulty.calls(Operation::Get), 3, "one that failed and its look at the size, and one more");
}

#[tokio::test]
async fn a_run_shorter_than_the_index_says_is_damaged() {
    let (indexed, _) = indexed(limits::CACHE_BYTES_MIN).await;
    let mut object = indexed.put(ObjectKind::Data, 64, 64, &[(P, 0, 3)]).await;
    object.footer.entries[0].length += 1 << 20;
    indexed.index.add_object(&object.header, &object.footer);
    indexed.index.log(partition(P)).publish(Offset::new(3));
    let short = fetch(&indexed, 0).await;
    assert!(matches!(short, Err(FetchError::Corrupt(_))), "{short:?}");
}

#[tokio::test]
async fn a_reader_in_order_has_the_next_runs_read_ahead() {
    let (indexed, faulty) = indexed(limits::CACHE_BYTES_MIN).await;
    objects(&indexed, 8).await;
    fetch(&indexed, 0).await.unwrap();
    settle().await;
    assert_eq!(faulty.calls(Operation::Get), 1, "nothing says yet that it goes on in order");
    let hold = faulty.hold(Operation::Get, Moment::Request);
    let ahead = async {
        hold.arrived(7).await;
        hold.release();
    };
    let (second, ()) = tokio::join!(fetch(&indexed, 1), ahead);
    assert_eq!(second.unwrap().next, Offset::new(2));
    assert_eq!(indexed.offsets(P, 0, 1).await, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(faulty.calls(Operation::Get), 8);
}

#[tokio::test]
async fn runs_in_memory_are_not_read_ahead() {
    let (indexed, faulty) = indexed(limits::CACHE_BYTES_MIN).await;
    objects(&indexed, 8).await;
    let log = indexed.index.log(partition(P));
    (4..8).for_each(|number| log.push(tail(number, number + 1)));
    assert_eq!(indexed.offsets(P, 0, 1).await, [0, 1, 2, 3, 4, 5, 6, 7]);
    settle().await;
    assert_eq!(faulty.calls(Operation::Get), 4);
}

#[tokio::test]
async fn neighbours_in_one_object_are_read_ahead_in_one_get() {
    let (indexed, faulty) = indexed(limits::CACHE_BYTES_MIN).await;
    let runs: Vec<Run> = (0..8).map(|number| (P, number, number + 1)).collect();
    let mut object = indexed.put(ObjectKind::Data, 64, 64, &runs).await;
    // One entry for each batch, as a rolled object has for each mebibyte.
    let whole = object.footer.entries.remove(0);
    let mut position = whole.position;
    for (_, base, end) in runs {
        let length = u32::try_from(batch(base, end).len()).unwrap();
        let (base_offset, end_offset) = (Offset::new(base), Offset::new(end));
        let entry = IndexEntry { base_offset, end_offset, count: 1, position, length, ..whole };
        object.footer.entries.push(entry);
        position += u64::from(length);
    }
    assert_eq!(position, whole.position + u64::from(whole.length));
    indexed.index.add_object(&object.header, &object.footer);
    indexed.index.log(partition(P)).publish(Offset::new(8));
    assert_eq!(indexed.offsets(P, 0, 1).await, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(faulty.calls(Operation::Get), 3, "the first, the second, and all others");
}

#[tokio::test]
async fn who_looks_here_and_there_has_nothing_read_ahead() {
    let (indexed, faulty) = indexed(limits::CACHE_BYTES_MIN).await;
    objects(&indexed, 8).await;
    for at in [5, 3, 1, 7] {
        fetch(&indexed, at).await.unwrap();
    }
    settle().await;
    assert_eq!(faulty.calls(Operation::Get), 4);
}

#[tokio::test]
async fn what_nobody_comes_for_stops_the_reading_ahead() {
    let room = TINY / limits::READ_AHEAD_CACHE_SHARE / 1024;
    assert!(room >= limits::READ_AHEAD_EXTENTS);
    let (indexed, faulty) = indexed(TINY).await;
    objects(&indexed, 4 * room as u64).await;
    let mut expected = 0;
    let leave = async |from: u64, expected: &mut usize, ahead: usize| {
        fetch(&indexed, from).await.unwrap();
        fetch(&indexed, from + 1).await.unwrap();
        settle().await;
        *expected += 2 + ahead;
        assert_eq!(faulty.calls(Operation::Get), *expected, "from {from}");
    };
    leave(0, &mut expected, room).await;
    leave(2 * room as u64, &mut expected, 0).await;
    assert_eq!(indexed.offsets(P, 2, 1).await.len(), 4 * room - 2, "who comes later reads all the same");
}

#[tokio::test]
async fn a_store_that_fails_while_reading_ahead_fails_nobody() {
    let (indexed, faulty) = indexed(limits::CACHE_BYTES_MIN).await;
    objects(&indexed, 4).await;
    fetch(&indexed, 0).await.unwrap();
    fetch(&indexed, 2).await.unwrap();
    // The run that is read ahead of who reads the second one.
    faulty.inject(
        crate::testing::Target::at(Operation::Get, &indexed.at.keys.wal(SHARD, seq(67))),
        Fault::Fail,
    );
    fetch(&indexed, 1).await.unwrap();
    settle().await;
    assert_eq!(indexed.offsets(P, 0, 1).await, [0, 1, 2, 3]);
}
