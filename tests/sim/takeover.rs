//! A takeover at one instant, for worlds in which the store answers takers at once.

use forebay_log::format::manifest::Manifest;
use forebay_log::model::ShardId;
use forebay_log::shard::taker::{Answer, Ask, Leadership, PutAnswer, Taker};
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::check::{Violation, violation};
use crate::config::Micros;
use crate::store::{self, Key, Op, Store};
use crate::world::{CLUSTER, timestamp};

/// The gap of the shard: small, so that objects wait for each other.
pub(crate) const GAP: u64 = 2;

/// Runs a taker against a store that answers at once.
pub(crate) fn take_over(
    store: &mut Store,
    shard: ShardId,
    now: Micros,
    nonces: u64,
) -> Result<Leadership, Violation> {
    let nonces = StdRng::seed_from_u64(nonces);
    let (mut taker, mut ask) = Taker::new(CLUSTER, shard, timestamp(now), nonces);
    loop {
        let answer = match ask {
            Ask::Lead(leadership) => return Ok(*leadership),
            Ask::Manifest => {
                let manifest = store.manifest.as_ref();
                Answer::Manifest(manifest.map(|(bytes, _)| Manifest::decode(bytes).expect("a manifest")))
            }
            Ask::CreateManifest(manifest) => {
                let bytes = Manifest { gap: GAP, ..manifest }.encode().expect("a new manifest is small");
                store.apply(&Op::CreateManifest(bytes));
                Answer::ManifestCreated
            }
            Ask::Snapshot(_) => Answer::Snapshot(None),
            Ask::Object(seq) => {
                let object = store.objects.get(&Key::Wal(seq.get()));
                Answer::Object(object.and_then(|object| object.path_object()).map(Box::new))
            }
            Ask::PutEpoch { seq, body, .. } => match store.apply(&Op::Create(Key::Wal(seq.get()), body)).0 {
                store::Answer::Put(put) => Answer::Put(put),
                _ => Answer::Put(PutAnswer::Unknown),
            },
        };
        ask = match taker.next(answer) {
            Ok(ask) => ask,
            Err(error) => return violation("alarm", format!("the shard cannot be led: {error:?}")),
        };
    }
}
