//! The network between the nodes of a cluster: a door in front of each node's cluster listener, at which connections from
//! any other node can be cut or fall silent. Who connects is found out by looking up whose socket it is.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::eventually;
use crate::ports::free_port;

/// What is wrong between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFault {
    /// Connections are closed, new ones at once.
    Cut,
    /// Connections stay open and are made, but nothing gets through until they are healed.
    Silence,
}

/// Faults by the node that connects and the one that is connected to.
type Faults = HashMap<(usize, usize), LinkFault>;

/// Connections that faults have befallen.
#[derive(Debug, Default)]
struct Hits {
    cut: AtomicU64,
    silenced: AtomicU64,
}

impl Hits {
    fn count(&self, fault: LinkFault) {
        let hits = match fault {
            LinkFault::Cut => &self.cut,
            LinkFault::Silence => &self.silenced,
        };
        hits.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Door {
    port: u16,
    /// Where the node's cluster listener is.
    inner: SocketAddr,
    /// The task that listens, while the node's process is there.
    listening: Option<AbortHandle>,
}

/// The doors of all nodes. The connections of a door end with it.
#[derive(Debug)]
pub struct Links {
    doors: Vec<Door>,
    faults: watch::Sender<Faults>,
    processes: Arc<Mutex<Vec<Option<u32>>>>,
    hits: Arc<Hits>,
    tasks: JoinSet<()>,
}

impl Links {
    /// Links between no nodes yet.
    pub fn new() -> Self {
        Self {
            doors: Vec::new(),
            faults: watch::Sender::default(),
            processes: Arc::default(),
            hits: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// Makes a closed door for the next node, whose cluster listener is on this port; answers the door's address.
    pub fn add(&mut self, inner: u16) -> String {
        let door =
            Door { port: free_port(), inner: SocketAddr::from(([127, 0, 0, 1], inner)), listening: None };
        let address = format!("127.0.0.1:{}", door.port);
        self.doors.push(door);
        self.processes.lock().push(None);
        address
    }

    /// Opens the door of a node, which runs as this process now.
    pub async fn open(&mut self, node: usize, process: u32) {
        self.processes.lock()[node] = Some(process);
        let door = &mut self.doors[node];
        // Still open after a process that has ended by itself.
        if let Some(listening) = door.listening.take() {
            listening.abort();
        }
        let address = ("127.0.0.1", door.port);
        let bind = || async { TcpListener::bind(address).await.ok() };
        let listener = eventually("the door's port is free again", bind).await;
        let end = Arc::new(Listening {
            node,
            door: listener.local_addr().expect("a bound listener has an address"),
            inner: door.inner,
            faults: self.faults.subscribe(),
            processes: Arc::clone(&self.processes),
            hits: Arc::clone(&self.hits),
        });
        door.listening = Some(self.tasks.spawn(end.accept(listener)));
    }

    /// Closes the door of a node whose process is gone: connections to it are refused.
    pub fn close(&mut self, node: usize) {
        self.processes.lock()[node] = None;
        if let Some(listening) = self.doors[node].listening.take() {
            listening.abort();
        }
    }

    /// Connections that were cut, and those that fell silent, so far.
    pub fn hits(&self) -> (u64, u64) {
        (self.hits.cut.load(Ordering::Relaxed), self.hits.silenced.load(Ordering::Relaxed))
    }

    /// Sets what is wrong between two nodes from now on, in both directions.
    pub fn set(&self, one: usize, other: usize, fault: Option<LinkFault>) {
        self.faults.send_modify(|faults| {
            for link in [(one, other), (other, one)] {
                match fault {
                    Some(fault) => _ = faults.insert(link, fault),
                    None => _ = faults.remove(&link),
                }
            }
        });
    }
}

impl Default for Links {
    fn default() -> Self {
        Self::new()
    }
}

/// What the task at one door knows.
#[derive(Debug)]
struct Listening {
    node: usize,
    door: SocketAddr,
    inner: SocketAddr,
    faults: watch::Receiver<Faults>,
    processes: Arc<Mutex<Vec<Option<u32>>>>,
    hits: Arc<Hits>,
}

impl Listening {
    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let Ok((caller, from)) = listener.accept().await else { continue };
            connections.spawn(Arc::clone(&self).pass(caller, from));
            while connections.try_join_next().is_some() {}
        }
    }

    /// Serves one connection. Errors end it, as they would without a door.
    async fn pass(self: Arc<Self>, mut caller: TcpStream, from: SocketAddr) {
        let Ok(mut server) = TcpStream::connect(self.inner).await else { return };
        let _ = (caller.set_nodelay(true), server.set_nodelay(true));
        let mut flow = pin!(copy_bidirectional(&mut caller, &mut server));
        let (mut faults, mut node, mut last) = (self.faults.clone(), None, None);
        loop {
            // A process may connect before it is known whose it is.
            node = node.or_else(|| self.caller(from));
            let fault = node.and_then(|node| faults.borrow_and_update().get(&(node, self.node)).copied());
            if let Some(fault) = fault.filter(|_| fault != last) {
                self.hits.count(fault);
            }
            last = fault;
            if fault == Some(LinkFault::Cut) {
                return;
            }
            tokio::select! {
                biased;
                changed = faults.changed() => if changed.is_err() { return },
                _ = &mut flow, if fault.is_none() => return,
            }
        }
    }

    /// The node whose process holds the other end of a connection.
    fn caller(&self, from: SocketAddr) -> Option<usize> {
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        let (local, remote) = (as_in_table(from)?, as_in_table(self.door)?);
        let inode = table.lines().find_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            (columns.get(1) == Some(&local.as_str()) && columns.get(2) == Some(&remote.as_str()))
                .then(|| columns.get(9).copied())
                .flatten()
        })?;
        let socket = format!("socket:[{inode}]");
        let processes = self.processes.lock().clone();
        let holds = |process: u32| {
            let files = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?;
            let is_it = |file: &std::fs::DirEntry| {
                std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket.as_str())
            };
            files.flatten().any(|file| is_it(&file)).then_some(())
        };
        processes.iter().position(|process| process.and_then(holds).is_some())
    }
}

/// An address as the kernel's table of connections has it.
fn as_in_table(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::in_time;

    /// How long a link has to let nothing through. What would come does so within much less.
    const SILENT: Duration = Duration::from_millis(300);

    /// A server that sends back what it gets.
    async fn echo() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut receive, mut send) = stream.split();
                    tokio::io::copy(&mut receive, &mut send).await
                });
            }
        });
        port
    }

    async fn answer(stream: &mut TcpStream) -> Option<u8> {
        stream.write_all(b"x").await.ok()?;
        stream.read_u8().await.ok()
    }

    #[tokio::test]
    async fn only_the_faulty_link_fails_and_it_heals() {
        let mut links = Links::new();
        let door = links.add(echo().await);
        links.add(1);
        // This process plays the second node, which calls the first.
        links.open(0, u32::MAX).await;
        links.processes.lock()[1] = Some(std::process::id());
        let mut stream = TcpStream::connect(&door).await.expect("the door is open");
        assert_eq!(in_time("an answer", answer(&mut stream)).await, Some(b'x'));

        links.set(0, 1, Some(LinkFault::Silence));
        stream.write_all(b"y").await.expect("the kernel takes it");
        links.set(0, 2, Some(LinkFault::Cut));
        let read = tokio::time::timeout(SILENT, stream.read_u8()).await;
        assert!(read.is_err(), "something came through: {read:?}");
        assert_eq!(links.hits(), (0, 1));
        links.set(0, 1, None);
        assert_eq!(in_time("the byte sent in silence", stream.read_u8()).await.ok(), Some(b'y'));

        links.set(1, 0, Some(LinkFault::Cut));
        assert_eq!(in_time("the end", stream.read_u8()).await.ok(), None);
        let mut stream = TcpStream::connect(&door).await.expect("the door is open");
        assert_eq!(in_time("the end", answer(&mut stream)).await, None);
        assert_eq!(links.hits(), (2, 1), "a connection that is open, and one that is made");
        links.close(0);
        in_time("the door closes", async {
            while TcpStream::connect(&door).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}
