//! What every store promises, on S3.

use std::sync::Arc;

use forebay_log::store::{Path, ProbeError, Property, S3Keys, S3Options, Store, StoreUrl};
use forebay_log::testing::contract::{create_only_contract, reads_contract, register_contract};
use harness::{S3Faults as Faults, S3Server, SharedStore};
use object_store::prefix::PrefixStore;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Faults of a bad day.
fn faults() -> Faults {
    Faults { conflict: 0.05, unavailable: 0.05, reset: 0.05, ..Faults::default() }
}

/// The keys of servers that tests start.
fn our_keys() -> S3Keys {
    S3Keys { id: S3Server::KEY_ID.to_owned(), secret: S3Server::SECRET.to_owned() }
}

fn options(server: &S3Server) -> S3Options {
    let endpoint = Some(server.url().parse().expect("it is an endpoint"));
    S3Options { endpoint, keys: Some(our_keys()), ..S3Options::default() }
}

async fn open(bucket: &str, options: &S3Options) -> Store {
    let url = StoreUrl::S3 { bucket: bucket.to_owned(), prefix: String::new() };
    Store::open_with(&url, options).await.expect("the settings are good")
}

async fn keeps_all_contracts(store: &Store, other: &Store) {
    assert!(!store.is_exclusive(), "others can write there");
    create_only_contract(store, other).await;
    register_contract(store, other).await;
    reads_contract(store, other).await;
}

async fn passes_the_probe(store: &Store) {
    let folder = Path::from("probe");
    store.probe(&folder, &mut StdRng::seed_from_u64(1)).await.expect("it is fit for use");
    let left = store.list(&folder, None).await.expect("it can be listed");
    assert!(left.is_empty(), "the probe left objects behind: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_keeps_the_contracts() {
    let server = S3Server::start().await;
    let store = open(S3Server::BUCKET, &options(&server)).await;
    let other = open(S3Server::BUCKET, &options(&server)).await;
    keeps_all_contracts(&store, &other).await;
    passes_the_probe(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_that_answers_409_and_forgets_to_answer_keeps_the_contracts() {
    let server = S3Server::start().await;
    let store = open(S3Server::BUCKET, &options(&server)).await;
    server.set_faults(faults());
    keeps_all_contracts(&store, &store.clone()).await;
}

#[tokio::test]
async fn a_409_on_a_create_says_nothing_and_a_412_says_taken() {
    let server = S3Server::start().await;
    let store = open(S3Server::BUCKET, &options(&server)).await;
    let key = Path::from("once");
    let create = async || format!("{:?}", store.create(&key, "x".into()).await);
    server.set_faults(Faults { conflict: 1.0, ..Faults::default() });
    assert_eq!(create().await, "Conflict");
    assert_eq!(server.puts(), 1, "a conditional write is sent once");
    server.set_faults(Faults { reset: 1.0, ..Faults::default() });
    assert!(create().await.starts_with("Unknown"));
    server.set_faults(Faults::default());
    assert_eq!(create().await, "Exists");
    assert_eq!(server.puts(), 3);
    server.set_faults(Faults { unavailable: 1.0, ..Faults::default() });
    assert!(create().await.starts_with("Unknown"));
    assert_eq!(server.puts(), 4);
}

#[tokio::test]
async fn a_server_that_ignores_conditions_is_refused() {
    let server = S3Server::start().await;
    server.set_faults(Faults { unconditional: true, ..Faults::default() });
    let store = open(S3Server::BUCKET, &options(&server)).await;
    let refused = store.probe(&Path::from("probe"), &mut StdRng::seed_from_u64(1)).await;
    let Err(ProbeError::Violated { property: Property::CreateOnly, .. }) = refused else {
        panic!("{refused:?}");
    };
}

#[tokio::test]
async fn a_bucket_that_is_not_there_and_keys_that_are_wrong_are_told_at_once() {
    let server = S3Server::start().await;
    let keys = Some(S3Keys { secret: "wrong".to_owned(), ..our_keys() });
    let wrong = S3Options { keys, ..options(&server) };
    for (bucket, options, said) in
        [("another", options(&server), "NoSuchBucket"), (S3Server::BUCKET, wrong, "SignatureDoesNotMatch")]
    {
        let store = open(bucket, &options).await;
        let error = store.probe(&Path::from("probe"), &mut StdRng::seed_from_u64(1)).await.expect_err(bucket);
        let error = format!("{:#}", anyhow::Error::from(error));
        assert!(error.contains(said), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_keeps_the_contracts() {
    let place = SharedStore::real().await;
    let endpoint = Some(place.endpoint().parse().expect("it is an endpoint"));
    // Those of a server that the environment names are in the environment too.
    let keys = (!matches!(place, SharedStore::Named { .. })).then(our_keys);
    let options = S3Options { endpoint, keys, path_style: place.path_style(), region: None };
    let below_prefix = async || {
        let objects = PrefixStore::new(open(place.bucket(), &options).await.objects(), place.prefix());
        Store::with_objects(Arc::new(objects), false)
    };
    let store = below_prefix().await;
    keeps_all_contracts(&store, &below_prefix().await).await;
    passes_the_probe(&store).await;
}
