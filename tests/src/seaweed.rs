//! SeaweedFS as a real S3 server: one process with all its parts, on loopback only. Its bucket and its keys are those of
//! [`S3Server`]. The binary is the one that `FOREBAY_WEED` names, else the one that `tests/run` installs.

use std::net::TcpListener;
use std::path::Path;

use rand::rngs::{OsRng, StdRng};
use rand::{Rng as _, SeedableRng as _, TryRngCore as _};
use tempfile::TempDir;

use crate::process::{Process, command, tool};
use crate::{S3Server, eventually};

/// The parts of a server. Each takes one port after the other, and the one this much above it too.
const PARTS: [&str; 5] = ["s3", "master", "volume", "filer", "admin"];
const PORTS_BESIDE: u16 = 10_000;
/// Where the first port is looked for: below the ports that other tests take, as are those above.
const FIRST_PORTS: std::ops::Range<u16> = 10_000..11_900;
const STARTS_MAX: usize = 5;

/// A running server; it and everything stored are gone when it is dropped.
#[derive(Debug)]
pub struct SeaweedFs {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl SeaweedFs {
    /// Starts a server, and waits until its bucket is there.
    pub async fn start() -> Self {
        let folder = TempDir::with_prefix("forebay-seaweed-").expect("the temporary folder can be written");
        let mut said = String::new();
        for _ in 0..STARTS_MAX {
            let port = free_ports();
            let mut process = spawn(folder.path(), port);
            if is_ready(&mut process, port).await {
                return Self { process, port, folder };
            }
            // Somebody else has taken one of the ports by now.
            said = process.log_end();
            process.end();
            remove_sockets(port);
        }
        panic!("SeaweedFS does not start\n{said}");
    }

    /// The URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The variables that let another process use it.
    pub fn variables() -> [(&'static str, &'static str); 2] {
        S3Server::variables()
    }

    /// Kills the process at once, as a crash does, and starts it again on the same folder and ports.
    pub async fn kill9_and_restart(&mut self) {
        self.process.kill9().await;
        self.process = spawn(self.folder.path(), self.port);
        let ready = is_ready(&mut self.process, self.port).await;
        assert!(ready, "SeaweedFS does not start again\n{}", self.process.log_end());
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        self.process.end();
        remove_sockets(self.port);
    }
}

/// Waits until the server answers and its bucket is there; false if it ends instead.
async fn is_ready(process: &mut Process, port: u16) -> bool {
    let http = reqwest::Client::new();
    let pages = [
        format!("http://127.0.0.1:{port}/healthz"),
        format!("http://127.0.0.1:{}/buckets/{}/", port + 3, S3Server::BUCKET),
    ];
    eventually("SeaweedFS is ready", || {
        let ended = process.ended().is_some();
        let calls = pages.each_ref().map(|page| http.get(page).send());
        async move {
            if ended {
                return Some(false);
            }
            for call in calls {
                call.await.ok().filter(|answer| answer.status().is_success())?;
            }
            Some(true)
        }
    })
    .await
}

/// The first of as many ports as a server takes, all of them free just now.
fn free_ports() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let seed = OsRng.try_next_u64().expect("the system gives randomness");
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        let first = random.random_range(FIRST_PORTS);
        if (first..).take(PARTS.len()).all(|port| is_free(port) && is_free(port + PORTS_BESIDE)) {
            return first;
        }
    }
}

fn spawn(folder: &Path, port: u16) -> Process {
    for part in ["data", "logs"] {
        std::fs::create_dir_all(folder.join(part)).expect("the temporary folder can be written");
    }
    let mut command = command(tool("FOREBAY_WEED", "weed"));
    command.arg(format!("-logdir={}", folder.join("logs").display())).arg("mini");
    command.arg(format!("-dir={}", folder.join("data").display()));
    command.arg(format!("-bucket={}", S3Server::BUCKET));
    for (at, part) in (0..).zip(PARTS) {
        command.arg(format!("-{part}.port={}", port + at));
    }
    command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false"]);
    command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-s3.autoCreateBucket=false"]);
    // It would report to its makers.
    command.arg("-master.telemetry=false");
    command.envs(S3Server::variables());
    Process::start(command, folder)
}

/// Deletes the sockets that a server leaves behind in the temporary folder, named by its ports.
fn remove_sockets(port: u16) {
    for (at, part) in (0..).zip(PARTS) {
        let port = port + at;
        for name in [format!("{part}-{port}"), format!("{part}-grpc-{}", port + PORTS_BESIDE)] {
            // Not every part has both.
            let _ = std::fs::remove_file(format!("/tmp/seaweedfs-{name}.sock"));
        }
    }
}
