//! What a leader has stored on its way to a node that follows it: WAL objects in path order, as soon as they are resolved.
//!
//! The follower says which topics its readers want; of the others it gets the index alone and reads batches from the
//! store when somebody asks. Nothing that arrives here is believed for having arrived: the follower applies an object
//! where its own walk of the log stands in front of it. `serve` is the leader's end, [`stream`] the follower's.

mod serve;
mod stream;
mod wire;

pub(super) use serve::serve;
pub use stream::{FollowStream, Followed, Wanted};
pub use wire::FollowEnd;
