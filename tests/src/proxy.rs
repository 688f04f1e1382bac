//! A proxy between a client and the server that cuts connections in the middle of what the server sends.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes taken from the server at a time.
const PIECE_BYTES: usize = 16 * 1024;

/// Passes bytes both ways until it is told to cut. Ends with all its connections when it is dropped.
#[derive(Debug)]
pub struct CuttingProxy {
    address: SocketAddr,
    cuts: watch::Sender<u64>,
}

impl CuttingProxy {
    /// Listens on a free port of loopback, for connections to `server` (`127.0.0.1:PORT`).
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (cuts, cut) = watch::channel(0);
        tokio::spawn(accept(listener, server.to_owned(), cut));
        Self { address, cuts }
    }

    /// The URL to connect to, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Cuts every open connection in the middle of the next piece that the server sends on it.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

async fn accept(listener: TcpListener, server: String, mut cut: watch::Receiver<u64>) {
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                tokio::spawn(pass(client, server.clone(), cut.clone()));
            }
            // A cut is of no concern here; the end of the proxy is.
            changed = cut.changed() => if changed.is_err() { return },
        }
    }
}

/// Serves one connection. Errors end it, as they would without a proxy.
async fn pass(mut client: TcpStream, server: String, mut cut: watch::Receiver<u64>) {
    cut.mark_unchanged();
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let upward = tokio::io::copy(&mut from_client, &mut to_server);
    let downward = async {
        let mut piece = vec![0; PIECE_BYTES];
        let mut cutting = false;
        loop {
            tokio::select! {
                biased;
                changed = cut.changed(), if !cutting => match changed {
                    Ok(()) => cutting = true,
                    Err(_) => return,
                },
                read = from_server.read(&mut piece) => {
                    let Ok(count @ 1..) = read else { return };
                    let passed = if cutting { count / 2 } else { count };
                    if to_client.write_all(&piece[..passed]).await.is_err() || cutting {
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = downward => {}
        // A client that sends no more may still read; one that is gone is noticed by the next write.
        () = async { if upward.await.is_ok() { std::future::pending::<()>().await } } => {}
    }
}
