//! Redis as a real server (Valkey, which speaks the same): one process on loopback that can be killed, wiped and stopped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use redis::{Client, Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, cmd};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::ports::free_port;
use crate::{eventually, in_time};

const STARTS_MAX: usize = 5;

/// A running server that keeps its data in a file; both are gone when it is dropped.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
    args: Vec<String>,
    folder: TempDir,
}

impl Redis {
    /// Starts a server, and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with more arguments of its command line, and waits until it answers.
    pub async fn start_with(args: &[&str]) -> Self {
        let folder = TempDir::with_prefix("forebay-redis-").expect("the temporary folder can be written");
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        for _ in 0..STARTS_MAX {
            let port = free_port();
            let mut child = spawn(folder.path(), port, &args);
            if is_ready(&mut child, port).await {
                return Self { child, port, args, folder };
            }
            // Somebody else has taken the port by now.
        }
        panic!("Redis does not start\n{}", log(folder.path()));
    }

    /// The URL, without a database.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the process at once, as a crash does.
    pub async fn kill9(&mut self) {
        self.child.start_kill().expect("a child can be killed");
        in_time("the killed Redis ends", self.child.wait()).await.expect("a child can be waited for");
    }

    /// Starts the killed process again, on the same port and with what it had stored.
    pub async fn restart(&mut self) {
        self.child = spawn(self.folder.path(), self.port, &self.args);
        let ready = is_ready(&mut self.child, self.port).await;
        assert!(ready, "Redis does not start again\n{}", log(self.folder.path()));
    }

    /// Deletes everything.
    pub async fn flush_all(&self) {
        self.query::<()>(&cmd("FLUSHALL")).await;
    }

    /// Lets the process stand still: it accepts connections, and answers nothing.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a process that stands still go on.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends one command past everybody, and panics if it fails.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> T {
        query(self.port, command).await.expect("Redis answers")
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(id.expect("the process runs"), signal).expect("a child can be sent a signal");
    }
}

async fn query<T: FromRedisValue>(port: u16, command: &Cmd) -> RedisResult<T> {
    let client = Client::open(format!("redis://127.0.0.1:{port}"))?;
    command.query_async(&mut client.get_multiplexed_async_connection().await?).await
}

/// Waits until the server has loaded its data; false if it ends instead.
async fn is_ready(child: &mut Child, port: u16) -> bool {
    eventually("Redis is ready", || {
        let ended = child.try_wait().ok().flatten().is_some();
        async move {
            if ended {
                return Some(false);
            }
            match query::<String>(port, &cmd("PING")).await {
                Ok(_) => Some(true),
                Err(error) => match error.kind() {
                    ErrorKind::Io | ErrorKind::Server(ServerErrorKind::BusyLoading) => None,
                    // It answers, if only that it wants a password.
                    _ => Some(true),
                },
            }
        }
    })
    .await
}

/// The binary: `FOREBAY_REDIS_SERVER`, or the one that `tests/run` installs.
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("FOREBAY_REDIS_SERVER") {
        return path.into();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/valkey-server");
    assert!(path.is_file(), "no Redis: run `tests/run` once, or set FOREBAY_REDIS_SERVER");
    path
}

/// Starts the process; its output goes to a file, because an inherited pipe would outlive a failed test.
fn spawn(folder: &Path, port: u16, args: &[String]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log"));
    let log = log.expect("the temporary folder can be written");
    let mut command = Command::new(binary());
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]).arg(folder);
    command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"]).args(args);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file handle can be cloned"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("Redis can be started")
}

fn log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("log")).unwrap_or_default()
}
