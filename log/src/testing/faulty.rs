//! An object store that fails on demand.
//!
//! A [`FaultyStore`] sits between [`Store`](crate::store::Store) and the objects. Faults come by script
//! ([`FaultyStore::inject`]: the next matching call) or by chance ([`FaultyStore::set_chance`]: drawn from a seeded
//! generator, so a single-threaded test repeats exactly). Calls can also be held ([`FaultyStore::hold`]).
//!
//! An operation is what goes over the wire: a swap that expects no content is an [`Operation::Create`].

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

use crate::store::Operation;

const NAME: &str = "FaultyStore";

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Fails without reaching the store. Any other fault that means nothing for a call does the same.
    Fail,
    /// A write is applied, and its answer is lost.
    LoseReply,
    /// A conditional write is answered with 409 and not applied: `Precondition` for a create, `AlreadyExists` for an
    /// update, which [`Store`](crate::store::Store) reads so.
    Conflict,
    /// A write fails now, and is applied when the test calls [`FaultyStore::land_late`].
    LandLate,
    /// A write is applied twice, and the second answer is returned.
    LandTwice,
    /// A read finds nothing.
    NotFound,
}

/// Which calls are meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    operation: Operation,
    key: Option<Path>,
}

impl Target {
    /// Means the calls for one object, or the listings of one folder.
    pub fn at(operation: Operation, key: &Path) -> Self {
        Self { operation, key: Some(key.clone()) }
    }

    fn matches(&self, operation: Operation, key: &Path) -> bool {
        self.operation == operation && self.key.as_ref().is_none_or(|wanted| wanted == key)
    }
}

impl From<Operation> for Target {
    fn from(operation: Operation) -> Self {
        Self { operation, key: None }
    }
}

/// Where a call is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// Before it reaches the store.
    Request,
    /// After the store has answered.
    Reply,
}

/// A decorated store. Clones share everything.
#[derive(Debug, Clone)]
pub struct FaultyStore {
    objects: Arc<dyn ObjectStore>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rng: StdRng,
    scripts: Vec<(Target, Fault)>,
    chances: Vec<(Operation, Fault, f64)>,
    gates: Vec<Arc<Gate>>,
    late: Vec<Late>,
    calls: HashMap<Operation, usize>,
    calls_left: Option<usize>,
    latency: Duration,
}

#[derive(Debug)]
enum Late {
    Put(Path, PutPayload, PutOptions),
    Delete(Path),
}

#[derive(Debug)]
struct Gate {
    target: Target,
    moment: Moment,
    arrived: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

/// Holds calls back until it is dropped.
#[derive(Debug)]
pub struct Hold {
    gate: Arc<Gate>,
    state: Arc<Mutex<State>>,
}

impl Hold {
    /// Waits until this many calls have been held.
    pub async fn arrived(&self, calls: usize) {
        let mut arrived = self.gate.arrived.subscribe();
        arrived.wait_for(|held| *held >= calls).await.expect("the sender is in this hold");
    }

    /// Lets the held calls go on.
    pub fn release(self) {}
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.state.lock().gates.retain(|gate| !Arc::ptr_eq(gate, &self.gate));
        self.gate.open.send_replace(true);
    }
}

impl FaultyStore {
    /// Wraps a store; without further calls it does what that does.
    pub fn new(objects: Arc<dyn ObjectStore>, seed: u64) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            scripts: Vec::new(),
            chances: Vec::new(),
            gates: Vec::new(),
            late: Vec::new(),
            calls: HashMap::new(),
            calls_left: None,
            latency: Duration::ZERO,
        };
        Self { objects, state: Arc::new(Mutex::new(state)) }
    }

    /// Lets the next call that is meant, and has no earlier script, meet this fault.
    pub fn inject(&self, target: impl Into<Target>, fault: Fault) {
        self.state.lock().scripts.push((target.into(), fault));
    }

    /// Lets each call of this kind meet this fault with the given probability. The chances of one operation add up
    /// to 1 at most; 0 takes one back.
    pub fn set_chance(&self, operation: Operation, fault: Fault, probability: f64) {
        let mut state = self.state.lock();
        state.chances.retain(|chance| (chance.0, chance.1) != (operation, fault));
        state.chances.push((operation, fault, probability));
    }

    /// Lets every call after the next `calls` fail without reaching the store; `None` lets all through again. So a
    /// process dies, as far as the store can tell.
    pub fn fail_after(&self, calls: Option<usize>) {
        self.state.lock().calls_left = calls;
    }

    /// Lets every call take so long before it reaches the store.
    pub fn set_latency(&self, latency: Duration) {
        self.state.lock().latency = latency;
    }

    /// Holds the calls that are meant, until the answer is dropped or released.
    pub fn hold(&self, target: impl Into<Target>, moment: Moment) -> Hold {
        let (arrived, open) = (watch::Sender::new(0), watch::Sender::new(false));
        let gate = Arc::new(Gate { target: target.into(), moment, arrived, open });
        self.state.lock().gates.push(Arc::clone(&gate));
        Hold { gate, state: Arc::clone(&self.state) }
    }

    /// Applies the writes that were to land late, in order, and returns how many there were. A conditional write may
    /// find that its condition no longer holds.
    pub async fn land_late(&self) -> usize {
        let late = std::mem::take(&mut self.state.lock().late);
        let count = late.len();
        for write in late {
            // Nobody waits for these answers any more.
            match write {
                Late::Put(key, body, options) => drop(self.objects.put_opts(&key, body, options).await),
                Late::Delete(key) => drop(self.objects.delete(&key).await),
            }
        }
        count
    }

    /// Returns how many calls of this kind were made, whatever became of them.
    pub fn calls(&self, operation: Operation) -> usize {
        self.state.lock().calls.get(&operation).copied().unwrap_or_default()
    }

    /// Counts a call, waits where calls are held, and says what goes wrong with it.
    async fn begin(&self, operation: Operation, key: &Path) -> Option<Fault> {
        let (fault, latency) = {
            let mut state = self.state.lock();
            *state.calls.entry(operation).or_default() += 1;
            (state.fault(operation, key), state.latency)
        };
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        self.pass(operation, key, Moment::Request).await;
        fault
    }

    async fn pass(&self, operation: Operation, key: &Path, moment: Moment) {
        let meant = |gate: &&Arc<Gate>| gate.moment == moment && gate.target.matches(operation, key);
        let gates: Vec<Arc<Gate>> = self.state.lock().gates.iter().filter(meant).cloned().collect();
        for gate in gates {
            gate.arrived.send_modify(|held| *held += 1);
            gate.open.subscribe().wait_for(|open| *open).await.expect("the sender is in this gate");
        }
    }

    async fn put(
        &self,
        fault: Option<Fault>,
        key: &Path,
        body: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        match fault {
            None => self.objects.put_opts(key, body, options).await,
            Some(Fault::LoseReply) => {
                drop(self.objects.put_opts(key, body, options).await);
                Err(failure("the answer is lost"))
            }
            Some(Fault::Conflict) => {
                let (path, source) = (key.to_string(), "injected 409".into());
                Err(match options.mode {
                    PutMode::Create => Error::Precondition { path, source },
                    _ => Error::AlreadyExists { path, source },
                })
            }
            Some(Fault::LandLate) => {
                self.state.lock().late.push(Late::Put(key.clone(), body, options));
                Err(failure("the request is delayed"))
            }
            Some(Fault::LandTwice) => {
                drop(self.objects.put_opts(key, body.clone(), options.clone()).await);
                self.objects.put_opts(key, body, options).await
            }
            Some(Fault::Fail | Fault::NotFound) => Err(failure("the request is lost")),
        }
    }

    async fn delete_one(&self, key: Path) -> Result<Path> {
        let fault = self.begin(Operation::Delete, &key).await;
        let deleted = match fault {
            None => self.objects.delete(&key).await,
            Some(Fault::LoseReply) => {
                drop(self.objects.delete(&key).await);
                Err(failure("the answer is lost"))
            }
            Some(Fault::LandLate) => {
                self.state.lock().late.push(Late::Delete(key.clone()));
                Err(failure("the request is delayed"))
            }
            Some(Fault::LandTwice) => {
                drop(self.objects.delete(&key).await);
                self.objects.delete(&key).await
            }
            Some(fault) => Err(read_error(fault, &key)),
        };
        self.pass(Operation::Delete, &key, Moment::Reply).await;
        deleted.map(|()| key)
    }

    fn listing(&self, prefix: Option<&Path>, after: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix, after) = (self.clone(), prefix.cloned().unwrap_or_default(), after.cloned());
        stream::once(async move {
            let fault = store.begin(Operation::List, &prefix).await;
            let listing = match (fault, after) {
                (Some(fault), _) => Err(read_error(fault, &prefix)),
                (None, Some(after)) => Ok(store.objects.list_with_offset(Some(&prefix), &after)),
                (None, None) => Ok(store.objects.list(Some(&prefix))),
            };
            store.pass(Operation::List, &prefix, Moment::Reply).await;
            listing
        })
        .try_flatten()
        .boxed()
    }
}

impl State {
    fn fault(&mut self, operation: Operation, key: &Path) -> Option<Fault> {
        match &mut self.calls_left {
            Some(0) => return Some(Fault::Fail),
            Some(left) => *left -= 1,
            None => {}
        }
        if let Some(found) = self.scripts.iter().position(|(target, _)| target.matches(operation, key)) {
            return Some(self.scripts.remove(found).1);
        }
        if !self.chances.iter().any(|chance| chance.0 == operation) {
            return None;
        }
        let mut draw: f64 = self.rng.random();
        for (_, fault, probability) in self.chances.iter().filter(|chance| chance.0 == operation) {
            if draw < *probability {
                return Some(*fault);
            }
            draw -= probability;
        }
        None
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{NAME}({})", self.objects)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, key: &Path, body: PutPayload, options: PutOptions) -> Result<PutResult> {
        let operation = match options.mode {
            PutMode::Create => Operation::Create,
            PutMode::Update(_) => Operation::Swap,
            PutMode::Overwrite => return Err(not_implemented("an unconditional put")),
        };
        let fault = self.begin(operation, key).await;
        let answer = self.put(fault, key, body, options).await;
        self.pass(operation, key, Moment::Reply).await;
        answer
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let answer = match self.begin(Operation::Get, key).await {
            None => self.objects.get_opts(key, options).await,
            Some(fault) => Err(read_error(fault, key)),
        };
        self.pass(Operation::Get, key, Moment::Reply).await;
        answer
    }

    fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        keys.and_then(move |key| {
            let store = store.clone();
            async move { store.delete_one(key).await }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        after: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listing(prefix, Some(after))
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(not_implemented("a listing with a delimiter"))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(not_implemented("a multipart put"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(not_implemented("a copy"))
    }
}

fn failure(what: &str) -> Error {
    Error::Generic { store: NAME, source: format!("injected fault: {what}").into() }
}

fn read_error(fault: Fault, key: &Path) -> Error {
    match fault {
        Fault::NotFound => Error::NotFound { path: key.to_string(), source: "injected 404".into() },
        _ => failure("the request is lost"),
    }
}

fn not_implemented(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: NAME.to_owned() }
}
