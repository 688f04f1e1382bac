//! Appends on their way to the leader of their shard on another node, in order, over one stream per leadership.
//!
//! The sending end ([`stream`]) numbers appends as it writes them and keeps what waits for an answer; the leader's end
//! (`serve`) hands them over one after the other, which makes their order the stream's, and answers as they are
//! acknowledged. [`wire`] has the frames.

mod serve;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

pub(super) use serve::serve;
pub use stream::{AppendStream, RemoteShard, Sent};
pub use wire::EncodedAppend;
