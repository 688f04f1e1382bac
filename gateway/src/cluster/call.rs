//! What one node asks another: the paths of all calls, and the two that are answered at once.
//!
//! *Probe* asks who leads a shard, and who answers; *lead* says that a shard was handed over, and may be declined. Both are rare, and each takes a connection
//! of its own, so that the answer also tells whether anybody listens there now.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use forebay_log::error::FormatError;
use forebay_log::format::codec::{Decoder, Encoder};
use forebay_log::limits::PROBE_MAX;
use forebay_log::model::{LeaderEpoch, NodeId, ShardId, WalSeq};
use http_body_util::{BodyExt as _, Limited};
use tokio::time::timeout;

use super::dial::Dialer;
use super::error::PeerError;
use super::frame::PeerBody;
use super::{LeaderHint, LocalShards};
use crate::limits;

const PROBE: &str = "answer to a probe";
/// Version of the calls and of the frames on their streams. Another one is another path, which older nodes refuse.
const VERSION: &str = "v1";

/// What a node is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Do you lead this shard?
    Probe(ShardId),
    /// Lead this shard, of which this epoch has ended.
    Lead(ShardId, LeaderEpoch),
    /// Append what follows, as the leader of this epoch.
    Append(ShardId, LeaderEpoch),
    /// Send what you store from this number on, as the leader of this epoch.
    Follow(ShardId, LeaderEpoch, WalSeq),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Probe(shard) => write!(f, "/{VERSION}/shards/{shard}/probe"),
            Self::Lead(shard, ended) => write!(f, "/{VERSION}/shards/{shard}/lead/{ended}"),
            Self::Append(shard, epoch) => write!(f, "/{VERSION}/shards/{shard}/append/{epoch}"),
            Self::Follow(shard, epoch, from) => {
                write!(f, "/{VERSION}/shards/{shard}/follow/{epoch}/{from}")
            }
        }
    }
}

/// A path that is none of this version's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnknownCall;

impl FromStr for Call {
    type Err = UnknownCall;

    fn from_str(path: &str) -> Result<Self, UnknownCall> {
        fn number<T: FromStr>(text: &str) -> Result<T, UnknownCall> {
            text.parse().map_err(|_| UnknownCall)
        }
        let path = path.strip_prefix('/').ok_or(UnknownCall)?;
        let parts: Vec<&str> = path.splitn(7, '/').collect();
        let [VERSION, "shards", shard, rest @ ..] = parts.as_slice() else { return Err(UnknownCall) };
        let shard = ShardId::new(number(shard)?);
        match rest {
            ["probe"] => Ok(Self::Probe(shard)),
            ["lead", ended] => Ok(Self::Lead(shard, LeaderEpoch::new(number(ended)?))),
            ["append", epoch] => Ok(Self::Append(shard, LeaderEpoch::new(number(epoch)?))),
            ["follow", epoch, from] => {
                Ok(Self::Follow(shard, LeaderEpoch::new(number(epoch)?), WalSeq::new(number(from)?)))
            }
            _ => Err(UnknownCall),
        }
    }
}

/// What came of asking a node whether it leads a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// It answered.
    Answered(ProbeAnswer),
    /// Nobody listens at its address: its process is gone.
    Refused,
    /// It did not answer in time, or not as a node of this cluster.
    Silent,
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// What it does with the shard.
    pub does: Does,
    /// The node that has the address.
    pub node: NodeId,
    /// Which of its processes.
    pub incarnation: u128,
    /// Whether it would lead a shard that is given to it.
    pub would_lead: bool,
}

/// What a node does with a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Does {
    /// It leads it.
    Leads {
        /// With this epoch.
        epoch: LeaderEpoch,
    },
    /// It is about to.
    TakesOver,
    /// Neither.
    Neither {
        /// Who does, as far as it knows.
        hint: Option<LeaderHint>,
    },
}

/// Answers a probe: what it does, node (16 bytes), incarnation (16), and whether it would lead (1).
pub(super) fn answer_probe(local: &dyn LocalShards, shard: ShardId) -> Bytes {
    let mut encoder = Encoder::new();
    match local.leader(shard) {
        Some(leader) => encoder.u8(1).u32(leader.epoch().get()),
        None if local.is_taking_over(shard) => encoder.u8(2),
        None => match local.hint(shard) {
            None => encoder.u8(3),
            Some(hint) => {
                encoder.u8(4);
                encode_hint(&mut encoder, &hint)
            }
        },
    };
    let (node, incarnation) = local.me();
    encoder.u128(node.get()).u128(incarnation).u8(u8::from(local.would_lead()));
    Bytes::from(encoder.finish())
}

fn decode_probe(bytes: &[u8]) -> Result<ProbeAnswer, FormatError> {
    let mut decoder = Decoder::new(PROBE, bytes);
    let does = match decoder.u8()? {
        1 => Does::Leads { epoch: LeaderEpoch::new(decoder.u32()?) },
        2 => Does::TakesOver,
        3 => Does::Neither { hint: None },
        4 => Does::Neither { hint: Some(decode_hint(&mut decoder)?) },
        _ => return Err(FormatError::Field { what: PROBE, field: "kind" }),
    };
    let (node, incarnation) = (NodeId::new(decoder.u128()?), decoder.u128()?);
    let would_lead = decoder.u8()? != 0;
    decoder.finish()?;
    Ok(ProbeAnswer { does, node, incarnation, would_lead })
}

/// Appends a hint: node (16 bytes), incarnation (16), epoch (4), address behind its length (2).
pub(super) fn encode_hint<'a>(encoder: &'a mut Encoder, hint: &LeaderHint) -> &'a mut Encoder {
    let LeaderHint { node, incarnation, address, epoch } = hint;
    // A host's name has at most 253 characters; what is longer is no address.
    let address = address.get(..address.len().min(ADDRESS_LEN_MAX)).unwrap_or_default();
    let len = u16::try_from(address.len()).unwrap_or_default();
    encoder.u128(node.get()).u128(*incarnation).u32(epoch.get()).u16(len).bytes(address.as_bytes())
}

/// Characters of an address: a host's name and a port.
const ADDRESS_LEN_MAX: usize = 260;

pub(super) fn decode_hint(decoder: &mut Decoder<'_>) -> Result<LeaderHint, FormatError> {
    let (node, incarnation) = (NodeId::new(decoder.u128()?), decoder.u128()?);
    let epoch = LeaderEpoch::new(decoder.u32()?);
    let len = usize::from(decoder.u16()?);
    let address = str::from_utf8(decoder.bytes(len)?).ok().filter(|address| address.len() <= ADDRESS_LEN_MAX);
    let address = address.ok_or(FormatError::Field { what: PROBE, field: "address" })?.to_owned();
    Ok(LeaderHint { node, incarnation, address, epoch })
}

/// Asks a node whether it leads a shard.
pub(super) async fn probe(dialer: &Dialer, address: &str, shard: ShardId) -> Probe {
    let asked = async {
        let bytes = ask(dialer, address, Call::Probe(shard)).await?;
        Ok::<_, PeerError>(decode_probe(&bytes)?)
    };
    match timeout(PROBE_MAX, asked).await {
        Ok(Ok(answer)) => Probe::Answered(answer),
        Ok(Err(PeerError::Refused)) => Probe::Refused,
        Ok(Err(error)) => {
            tracing::debug!(address, shard.id = %shard, %error, "a probe was not answered");
            Probe::Silent
        }
        Err(_) => Probe::Silent,
    }
}

/// Tells a node to lead a shard from now on.
pub(super) async fn lead(
    dialer: &Dialer,
    address: &str,
    shard: ShardId,
    ended: LeaderEpoch,
) -> Result<(), PeerError> {
    ask(dialer, address, Call::Lead(shard, ended)).await.map(|_| ())
}

async fn ask(dialer: &Dialer, address: &str, call: Call) -> Result<Bytes, PeerError> {
    let asked = async {
        let answer = dialer.call(address, &call.to_string(), PeerBody::empty()).await?;
        let body = Limited::new(answer.into_body(), limits::PEER_HEAD_BYTES_MAX as usize);
        match body.collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(_) => Err(FormatError::Truncated { what: PROBE }.into()),
        }
    };
    timeout(limits::PEER_CONNECT_MAX, asked).await.unwrap_or(Err(PeerError::Silent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found_again_by_its_path() {
        let (shard, epoch) = (ShardId::new(7), LeaderEpoch::new(9));
        for call in [
            Call::Probe(shard),
            Call::Lead(shard, epoch),
            Call::Append(shard, epoch),
            Call::Follow(shard, epoch, WalSeq::new(u64::MAX)),
        ] {
            assert_eq!(call.to_string().parse(), Ok(call));
        }
        for path in ["", "/", "/v2/shards/7/probe", "/v1/shards/70000/probe", "/v1/shards/7/append/1/2"] {
            assert_eq!(path.parse::<Call>(), Err(UnknownCall), "{path}");
        }
    }

    #[test]
    fn an_answer_to_a_probe_comes_back_and_damage_is_an_error() {
        let hint = LeaderHint {
            node: NodeId::new(1),
            incarnation: 2,
            address: "node-3.example:9090".to_owned(),
            epoch: LeaderEpoch::new(4),
        };
        let mut encoder = Encoder::new();
        encoder.u8(4);
        encode_hint(&mut encoder, &hint);
        encoder.u128(5).u128(6).u8(1);
        let bytes = encoder.finish();
        let does = Does::Neither { hint: Some(hint) };
        let answer = ProbeAnswer { does, node: NodeId::new(5), incarnation: 6, would_lead: true };
        assert_eq!(decode_probe(&bytes), Ok(answer));
        for cut in 0..bytes.len() {
            assert!(decode_probe(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        assert!(decode_probe(&[9]).is_err());
        assert!(decode_probe(&[2, 0]).is_err());
    }
}
