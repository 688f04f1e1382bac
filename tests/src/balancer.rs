//! A load balancer for TCP, as clouds have them: new connections go in turn to the nodes that say they are ready, and
//! connections that are open stay where they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::eventually;

/// Pause between two looks at a node, and the longest that one takes.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Node {
    address: String,
    ready: AtomicBool,
}

/// Passes connections on until it is dropped.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    nodes: Vec<Arc<Node>>,
    _tasks: JoinSet<()>,
}

impl Balancer {
    /// Listens on a free port of loopback, for connections to these nodes (`127.0.0.1:PORT` each).
    pub async fn start(nodes: impl IntoIterator<Item = String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let node = |address| Arc::new(Node { address, ready: AtomicBool::new(false) });
        let nodes: Vec<Arc<Node>> = nodes.into_iter().map(node).collect();
        let mut tasks: JoinSet<()> = nodes.iter().cloned().map(watch).collect();
        tasks.spawn(accept(listener, nodes.clone()));
        Self { address, nodes, _tasks: tasks }
    }

    /// Waits until it knows that all nodes are ready.
    pub async fn wait_ready(&self) {
        let is_ready = |node: &Arc<Node>| node.ready.load(Ordering::Relaxed);
        eventually("the balancer finds all nodes ready", async || {
            self.nodes.iter().all(is_ready).then_some(())
        })
        .await;
    }

    /// The URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Keeps the state of one node as it was at the last look.
async fn watch(node: Arc<Node>) {
    let http = reqwest::Client::builder().timeout(LOOK).pool_max_idle_per_host(0).build();
    let http = http.expect("the options are good");
    loop {
        let answer = http.get(format!("http://{}/readyz", node.address)).send().await;
        node.ready.store(answer.is_ok_and(|answer| answer.status() == 200), Ordering::Relaxed);
        tokio::time::sleep(LOOK).await;
    }
}

async fn accept(listener: TcpListener, nodes: Vec<Arc<Node>>) {
    let turn = Arc::new(AtomicUsize::new(0));
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        connections.spawn(pass(client, nodes.clone(), Arc::clone(&turn)));
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection. Without a node that takes it, it is closed.
async fn pass(mut client: TcpStream, nodes: Vec<Arc<Node>>, turn: Arc<AtomicUsize>) {
    let first = turn.fetch_add(1, Ordering::Relaxed);
    for at in 0..nodes.len() {
        let node = &nodes[(first + at) % nodes.len()];
        if !node.ready.load(Ordering::Relaxed) {
            continue;
        }
        if let Ok(mut server) = TcpStream::connect(&node.address).await {
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            // Errors end the connection, as they would without a balancer.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}
