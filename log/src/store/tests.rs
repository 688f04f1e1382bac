use std::fs;
use std::path::Path as FilePath;
use std::time::Duration;

use bytes::Bytes;
use object_store::{PutOptions, UpdateVersion};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::folder::PRIVATE_FOLDER;
use super::*;
use crate::error::{ErrorKind, Outcome};
use crate::testing::contract::{create_only_contract, reads_contract, register_contract};
use crate::testing::{Fault, FaultyStore, Moment, Target};

async fn memory() -> Store {
    Store::open(&StoreUrl::Memory).await.unwrap()
}

async fn file(folder: &FilePath) -> Store {
    Store::open(&StoreUrl::File(folder.to_owned())).await.unwrap()
}

/// Returns a store that loses this share of requests and of answers, and answers as many writes with 409.
fn unreliable(store: &Store, seed: u64, share: f64) -> Store {
    let faulty = FaultyStore::new(store.objects(), seed);
    for operation in [Operation::Create, Operation::Swap, Operation::Delete] {
        faulty.set_chance(operation, Fault::Fail, share);
        faulty.set_chance(operation, Fault::LoseReply, share);
    }
    faulty.set_chance(Operation::Create, Fault::Conflict, share);
    faulty.set_chance(Operation::Swap, Fault::Conflict, share);
    faulty.set_chance(Operation::Get, Fault::Fail, share);
    faulty.set_chance(Operation::List, Fault::Fail, share);
    Store::with_objects(Arc::new(faulty), true)
}

async fn keeps_all_contracts(store: &Store) {
    let other = store.clone();
    create_only_contract(store, &other).await;
    register_contract(store, &other).await;
    reads_contract(store, &other).await;
}

async fn passes_the_probe(store: &Store) {
    store.probe(&Path::from("probe"), &mut StdRng::seed_from_u64(1)).await.unwrap();
    let left = store.list(&Path::from("probe"), None).await.unwrap();
    assert!(left.is_empty(), "the probe left objects behind: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_contracts() {
    let store = memory().await;
    keeps_all_contracts(&store).await;
    passes_the_probe(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_keeps_the_contracts() {
    let folder = tempfile::tempdir().unwrap();
    let store = file(folder.path()).await;
    keeps_all_contracts(&store).await;
    passes_the_probe(&store).await;
}

#[tokio::test(start_paused = true)]
async fn memory_behind_lost_requests_and_answers_keeps_the_contracts() {
    for seed in 0..8 {
        keeps_all_contracts(&unreliable(&memory().await, seed, 0.12)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_folder_behind_lost_requests_and_answers_keeps_the_contracts() {
    let folder = tempfile::tempdir().unwrap();
    keeps_all_contracts(&unreliable(&file(folder.path()).await, 1, 0.12)).await;
}

#[tokio::test(start_paused = true)]
async fn the_probe_blames_no_store_for_lost_requests_and_answers() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut passed = 0;
    for seed in 0..100 {
        match unreliable(&memory().await, seed, 0.02).probe(&Path::from("probe"), &mut rng).await {
            Ok(()) => passed += 1,
            Err(ProbeError::Store(error)) => assert!(error.is_retriable(), "{error:?}"),
            Err(violated) => panic!("seed {seed}: {violated}"),
        }
    }
    assert!((10..90).contains(&passed), "too few or too many faults to tell: passed={passed}");
}

#[tokio::test]
async fn a_folder_opened_again_holds_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (object, register) = (Path::from("a/b/c"), Path::from("a/register"));
    let store = file(folder.path()).await;
    assert!(matches!(store.create(&object, "object".into()).await, CreateAnswer::Created));
    let Swap::Swapped(first) = store.swap(&register, None, "1".into()).await.unwrap() else { panic!() };
    let Swap::Swapped(second) = store.swap(&register, Some(&first), "2".into()).await.unwrap() else {
        panic!()
    };
    drop(store);

    let store = file(folder.path()).await;
    assert_eq!(store.get(&object).await.unwrap(), Some("object".into()));
    let current = store.read_register(&register).await.unwrap().unwrap();
    assert_eq!(current, Versioned { body: "2".into(), revision: second.clone() });
    assert_eq!(store.swap(&register, Some(&first), "3".into()).await.unwrap(), Swap::Conflict);
    assert!(matches!(store.swap(&register, Some(&second), "3".into()).await.unwrap(), Swap::Swapped(_)));
    assert!(matches!(store.create(&object, "other".into()).await, CreateAnswer::Exists));
}

#[tokio::test]
async fn a_locked_folder_is_refused_until_the_last_handle_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = file(folder.path()).await;
    let clone = store.clone();
    drop(store);
    let error = Store::open(&StoreUrl::File(folder.path().to_owned())).await.unwrap_err();
    let OpenError::Locked { path, holder } = &error else { panic!("{error:?}") };
    assert_eq!((path.as_path(), *holder), (folder.path(), Some(std::process::id())));
    assert!(error.to_string().ends_with(&format!("pid={}", std::process::id())), "{error}");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    drop(clone);
    file(folder.path()).await;
}

#[tokio::test]
async fn what_a_dead_process_staged_is_removed_and_never_listed() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::default();
    drop(file(folder.path()).await);
    let staged = folder.path().join(PRIVATE_FOLDER).join("staged");
    fs::write(staged.join("0"), "half an object").unwrap();
    fs::write(staged.join("7"), "a whole one").unwrap();

    let store = file(folder.path()).await;
    assert_eq!(fs::read_dir(&staged).unwrap().count(), 0);
    fs::write(staged.join("unpublished"), "").unwrap();
    assert!(store.list(&root, None).await.unwrap().is_empty());
    assert!(matches!(store.create(&Path::from("seen"), "x".into()).await, CreateAnswer::Created));
    let listed = store.list(&root, None).await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(fs::read_dir(&staged).unwrap().count(), 1, "a published file keeps no staged name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_objects_are_created_in_a_folder_that_is_being_made() {
    let folder = tempfile::tempdir().unwrap();
    let store = file(folder.path()).await;
    let deep = Path::from("a/b/c/d");
    let keys: Vec<Path> = (0..32).map(|number| deep.clone().join(format!("{number:02}"))).collect();
    let creates = keys.clone().into_iter().map(|key| {
        let store = store.clone();
        tokio::spawn(async move { store.create(&key, "x".into()).await })
    });
    for answer in futures::future::join_all(creates).await {
        assert!(matches!(answer.unwrap(), CreateAnswer::Created));
    }
    let listed = store.list(&deep, None).await.unwrap();
    assert!(listed.iter().map(|object| &object.location).eq(&keys));
}

#[tokio::test]
async fn the_private_folder_is_no_part_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = file(folder.path()).await;
    let lock = Path::from(PRIVATE_FOLDER).join("lock");
    let CreateAnswer::Unknown(error) = store.create(&lock, "x".into()).await else { panic!() };
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Internal, Outcome::NotApplied));
    store.get(&lock).await.unwrap_err();
    store.delete(&lock).await.unwrap_err();
    assert!(folder.path().join(PRIVATE_FOLDER).join("lock").exists());
}

#[tokio::test]
async fn a_create_answers_what_the_store_said() {
    let faulty = FaultyStore::new(memory().await.objects(), 0);
    let store = Store::with_objects(Arc::new(faulty.clone()), false);
    let key = Path::from("key");
    faulty.inject(Operation::Create, Fault::Conflict);
    assert!(matches!(store.create(&key, "a".into()).await, CreateAnswer::Conflict));
    faulty.inject(Target::at(Operation::Create, &key), Fault::Fail);
    let CreateAnswer::Unknown(error) = store.create(&key, "a".into()).await else { panic!() };
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::Unknown));
    assert_eq!(store.get(&key).await.unwrap(), None);
    faulty.inject(Operation::Create, Fault::LoseReply);
    assert!(matches!(store.create(&key, "a".into()).await, CreateAnswer::Unknown(_)));
    assert!(matches!(store.create(&key, "a".into()).await, CreateAnswer::Exists));
    assert_eq!(faulty.calls(Operation::Create), 4, "no create is repeated");
    faulty.inject(Operation::Create, Fault::LandTwice);
    assert!(matches!(store.create(&Path::from("twice"), "a".into()).await, CreateAnswer::Exists));
}

#[tokio::test(start_paused = true)]
async fn a_create_without_an_answer_ends_and_may_still_land() {
    let faulty = FaultyStore::new(memory().await.objects(), 0);
    let store = Store::with_objects(Arc::new(faulty.clone()), false);
    let key = Path::from("key");
    let hold = faulty.hold(Operation::Create, Moment::Reply);
    let CreateAnswer::Unknown(error) = store.create(&key, "a".into()).await else { panic!() };
    assert!(matches!(error, StoreError::TimedOut { operation: Operation::Create, .. }), "{error:?}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    hold.arrived(1).await;
    drop(hold);
    assert_eq!(store.get(&key).await.unwrap(), Some("a".into()));

    let late = Path::from("late");
    faulty.inject(Operation::Create, Fault::LandLate);
    assert!(matches!(store.create(&late, "b".into()).await, CreateAnswer::Unknown(_)));
    assert_eq!(store.get(&late).await.unwrap(), None);
    assert_eq!(faulty.land_late().await, 1);
    assert_eq!(store.get(&late).await.unwrap(), Some("b".into()));
}

#[tokio::test(start_paused = true)]
async fn a_swap_knows_its_own_body_after_a_lost_answer() {
    let faulty = FaultyStore::new(memory().await.objects(), 0);
    let store = Store::with_objects(Arc::new(faulty.clone()), false);
    let key = Path::from("register");
    for fault in [Fault::LoseReply, Fault::LandTwice, Fault::Fail, Fault::Conflict] {
        let current = store.read_register(&key).await.unwrap();
        let expected = current.as_ref().map(|found| &found.revision);
        let operation = if current.is_none() { Operation::Create } else { Operation::Swap };
        faulty.inject(operation, fault);
        let body = Bytes::from(format!("{fault:?}"));
        let Swap::Swapped(revision) = store.swap(&key, expected, body.clone()).await.unwrap() else {
            panic!()
        };
        assert_eq!(store.read_register(&key).await.unwrap(), Some(Versioned { body, revision }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_swap_lost_among_others_is_never_called_a_conflict() {
    let faulty = FaultyStore::new(memory().await.objects(), 0);
    let store = Store::with_objects(Arc::new(faulty.clone()), false);
    let key = Path::from("register");
    let Swap::Swapped(first) = store.swap(&key, None, "1".into()).await.unwrap() else { panic!() };

    // Our swap is stored and its answer lost; before we try again, somebody builds on it.
    faulty.inject(Operation::Swap, Fault::LoseReply);
    let ours = tokio::spawn({
        let (store, key, first) = (store.clone(), key.clone(), first.clone());
        async move { store.swap(&key, Some(&first), "2 ours".into()).await }
    });
    while store.get(&key).await.unwrap() != Some("2 ours".into()) {
        tokio::task::yield_now().await;
    }
    let second = store.read_register(&key).await.unwrap().unwrap().revision;
    assert!(matches!(store.swap(&key, Some(&second), "3".into()).await.unwrap(), Swap::Swapped(_)));
    let error = ours.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unsettled { .. }), "{error:?}");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Unavailable, Outcome::Unknown));
}

#[tokio::test(start_paused = true)]
async fn a_swap_that_lands_late_changes_nothing() {
    let faulty = FaultyStore::new(memory().await.objects(), 0);
    let store = Store::with_objects(Arc::new(faulty.clone()), false);
    let key = Path::from("register");
    let Swap::Swapped(first) = store.swap(&key, None, "1".into()).await.unwrap() else { panic!() };
    faulty.inject(Operation::Swap, Fault::LandLate);
    let Swap::Swapped(second) = store.swap(&key, Some(&first), "2".into()).await.unwrap() else { panic!() };
    assert!(matches!(store.swap(&key, Some(&second), "3".into()).await.unwrap(), Swap::Swapped(_)));
    assert_eq!(faulty.land_late().await, 1);
    assert_eq!(store.get(&key).await.unwrap(), Some("3".into()));
}

#[tokio::test]
async fn a_swap_larger_than_any_read_is_refused() {
    let store = memory().await;
    let body = Bytes::from(vec![0; crate::limits::METADATA_BYTES_MAX + 1]);
    let error = store.swap(&Path::from("key"), None, body).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { operation: Operation::Swap, .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_down_is_reported_after_bounded_attempts() {
    let faulty = FaultyStore::new(memory().await.objects(), 0);
    let store = Store::with_objects(Arc::new(faulty.clone()), false);
    faulty.set_chance(Operation::Create, Fault::Fail, 1.0);
    let started = tokio::time::Instant::now();
    let error = store.create_named_by_content(&Path::from("key"), "x".into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(faulty.calls(Operation::Create), crate::limits::STORE_ATTEMPTS_MAX as usize);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(matches!(error, StoreError::Unsettled { source: Some(_), .. }), "{error:?}");
}

/// What a store takes a PUT's condition for.
type TakesFor = fn(PutMode) -> PutMode;

/// A store that makes something else of the conditions of its PUTs, as some servers do.
#[derive(Debug)]
struct Careless {
    objects: InMemory,
    takes_for: TakesFor,
}

impl std::fmt::Display for Careless {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Careless")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Careless {
    async fn put_opts(
        &self,
        key: &Path,
        body: PutPayload,
        mut options: PutOptions,
    ) -> object_store::Result<PutResult> {
        options.mode = (self.takes_for)(options.mode);
        self.objects.put_opts(key, body, options).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        options: object_store::PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.objects.put_multipart_opts(key, options).await
    }

    async fn get_opts(
        &self,
        key: &Path,
        options: object_store::GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        self.objects.get_opts(key, options).await
    }

    fn delete_stream(
        &self,
        keys: futures::stream::BoxStream<'static, object_store::Result<Path>>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<Path>> {
        self.objects.delete_stream(keys)
    }

    fn list(
        &self,
        prefix: Option<&Path>,
    ) -> futures::stream::BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(
        &self,
        prefix: Option<&Path>,
    ) -> object_store::Result<object_store::ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: object_store::CopyOptions,
    ) -> object_store::Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_probe_names_what_a_careless_server_breaks() {
    let ignores_create = |mode| if mode == PutMode::Create { PutMode::Overwrite } else { mode };
    let ignores_update = |mode| if mode == PutMode::Create { mode } else { PutMode::Overwrite };
    // As servers do that compare the ETag with its quotes.
    let finds_no_etag = |mode| match mode {
        PutMode::Update(version) => {
            PutMode::Update(UpdateVersion { e_tag: version.e_tag.map(|tag| format!("\"{tag}\"")), ..version })
        }
        mode => mode,
    };
    let cases: [(TakesFor, &str); 3] = [
        (ignores_create, "create-only PUT (If-None-Match: *): winners=3 of=3"),
        (ignores_update, "compare-and-swap PUT (If-Match): winners=3 of=3"),
        (finds_no_etag, "compare-and-swap PUT (If-Match): the content named was there, and was not replaced"),
    ];
    for (takes_for, broken) in cases {
        let store = Store::with_objects(Arc::new(Careless { objects: InMemory::new(), takes_for }), false);
        let error = store.probe(&Path::from("probe"), &mut StdRng::seed_from_u64(1)).await.unwrap_err();
        assert_eq!(error.to_string(), format!("store cannot hold this log, it fails the check of {broken}"));
        assert!(
            store.list(&Path::default(), None).await.unwrap().is_empty(),
            "it cleans up after a failure too"
        );
    }
}
