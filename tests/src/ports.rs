//! Free ports that a process can come back to.
//!
//! They lie outside the range from which the system gives ports to outgoing connections, where a port that nobody listens
//! on for a moment is soon somebody else's. Each process of tests has a block of its own, which it holds by listening on
//! the block's first port.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 22_000;
const BLOCKS: u16 = 40;
/// Ports of one block. They are given out in turn, so that one comes again long after it was given up.
const BLOCK: u16 = 250;

/// What holds the block, and its first port.
static HELD: OnceLock<(TcpListener, u16)> = OnceLock::new();
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of loopback that is free now, and that no other test will take.
///
/// # Panics
/// More tests run at the same time than there are blocks.
pub(crate) fn free_port() -> u16 {
    let (_, first) = HELD.get_or_init(hold_block);
    loop {
        let port = first + 1 + NEXT.fetch_add(1, Ordering::Relaxed) % (BLOCK - 1);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

fn hold_block() -> (TcpListener, u16) {
    let firsts = (0..BLOCKS).map(|block| FIRST + block * BLOCK);
    let mut held = firsts.filter_map(|first| Some((TcpListener::bind(("127.0.0.1", first)).ok()?, first)));
    held.next().expect("a block of ports is free")
}
