//! Free ports that a process can come back to: outside the range from which the system gives ports to outgoing
//! connections, where a port that nobody listens on for a moment is soon somebody else's.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

use rand::TryRngCore as _;
use rand::rngs::OsRng;

const FIRST: u16 = 22_000;
const COUNT: u16 = 10_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of loopback that is free now, and that this process has not given away before (in `COUNT` calls).
pub(crate) fn free_port() -> u16 {
    if NEXT.load(Ordering::Relaxed) == 0 {
        let seed = OsRng.try_next_u32().expect("the system gives randomness");
        // Other test processes begin elsewhere.
        let _ = NEXT.compare_exchange(0, seed as u16 | 1, Ordering::Relaxed, Ordering::Relaxed);
    }
    loop {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
