//! SeaweedFS as a real S3 server: one process with all its parts, on loopback only, with one bucket.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rand::rngs::{OsRng, StdRng};
use rand::{Rng as _, SeedableRng as _, TryRngCore as _};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{eventually, in_time};

/// Ports of one server. It opens each plus 10,000 as well.
const PORTS: u16 = 5;
const PORTS_BESIDE: u16 = 10_000;
/// Where the first port is looked for: below what systems give to outgoing connections, and with room above.
const FIRST_PORTS: std::ops::Range<u16> = 12_000..21_000;
const STARTS_MAX: usize = 5;
const LOG_LINES_SHOWN: usize = 30;

/// A running server; it and everything stored are gone when it is dropped.
#[derive(Debug)]
pub struct SeaweedFs {
    child: Child,
    port: u16,
    folder: TempDir,
}

impl SeaweedFs {
    /// The bucket.
    pub const BUCKET: &str = "bucket";
    /// The access key id.
    pub const KEY_ID: &str = "test";
    /// The secret access key.
    pub const SECRET: &str = "test-secret";

    /// Starts a server, and waits until its bucket is there.
    pub async fn start() -> Self {
        let folder = TempDir::with_prefix("forebay-seaweed-").expect("the temporary folder can be written");
        for _ in 0..STARTS_MAX {
            let port = free_ports();
            let mut child = spawn(folder.path(), port);
            if is_ready(&mut child, port).await {
                return Self { child, port, folder };
            }
            // Somebody else has taken one of the ports by now.
        }
        panic!("SeaweedFS does not start\n{}", log_end(folder.path()));
    }

    /// The URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The variables that let another process use it.
    pub fn variables() -> [(&'static str, &'static str); 2] {
        [("AWS_ACCESS_KEY_ID", Self::KEY_ID), ("AWS_SECRET_ACCESS_KEY", Self::SECRET)]
    }

    /// Kills the process at once, as a crash does, and starts it again on the same folder and ports.
    pub async fn kill9_and_restart(&mut self) {
        self.child.start_kill().expect("a child can be killed");
        in_time("the killed SeaweedFS ends", self.child.wait()).await.expect("a child can be waited for");
        self.child = spawn(self.folder.path(), self.port);
        let ready = is_ready(&mut self.child, self.port).await;
        assert!(ready, "SeaweedFS does not start again\n{}", log_end(self.folder.path()));
    }
}

/// Waits until the server answers and its bucket is there; false if it ends instead.
async fn is_ready(child: &mut Child, port: u16) -> bool {
    let http = reqwest::Client::new();
    let pages = [
        format!("http://127.0.0.1:{port}/healthz"),
        format!("http://127.0.0.1:{}/buckets/{}/", port + 3, SeaweedFs::BUCKET),
    ];
    eventually("SeaweedFS is ready", || {
        let ended = child.try_wait().ok().flatten().is_some();
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
        if (first..first + PORTS).all(|port| is_free(port) && is_free(port + PORTS_BESIDE)) {
            return first;
        }
    }
}

/// The binary: `FOREBAY_WEED`, or the one that `tests/run` installs.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("FOREBAY_WEED") {
        return path.into();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/weed");
    assert!(path.is_file(), "no SeaweedFS: run `tests/run` once, or set FOREBAY_WEED");
    path
}

/// Starts the process; its output goes to a file, because an inherited pipe would outlive a failed test.
fn spawn(folder: &Path, port: u16) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log"));
    let log = log.expect("the temporary folder can be written");
    for part in ["data", "logs"] {
        std::fs::create_dir_all(folder.join(part)).expect("the temporary folder can be written");
    }
    let mut command = Command::new(binary());
    command.arg(format!("-logdir={}", folder.join("logs").display())).arg("mini");
    command.arg(format!("-dir={}", folder.join("data").display()));
    command.arg(format!("-bucket={}", SeaweedFs::BUCKET));
    for (at, part) in ["s3", "master", "volume", "filer", "admin"].iter().enumerate() {
        command.arg(format!("-{part}.port={}", usize::from(port) + at));
    }
    command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false"]);
    command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-s3.autoCreateBucket=false"]);
    // It would report to its makers.
    command.arg("-master.telemetry=false");
    command.envs(SeaweedFs::variables());
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file handle can be cloned"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("SeaweedFS can be started")
}

fn log_end(folder: &Path) -> String {
    let text = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
