//! Redis as a real server: one process on loopback that can be killed, wiped and stopped. It is the one that
//! `FOREBAY_REDIS_SERVER` names, else the Valkey that `tests/run` installs, which speaks the same.

use std::path::Path;

use redis::{Client, Cmd, ErrorKind, FromRedisValue, RedisResult, ServerErrorKind, cmd};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::eventually;
use crate::ports::free_port;
use crate::process::{Process, command, tool};

const STARTS_MAX: usize = 5;

/// A running server that keeps its data in a file; both are gone when it is dropped.
#[derive(Debug)]
pub struct Redis {
    process: Process,
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
        let mut said = String::new();
        for _ in 0..STARTS_MAX {
            let port = free_port();
            let mut process = spawn(folder.path(), port, &args);
            if is_ready(&mut process, port).await {
                return Self { process, port, args, folder };
            }
            // Somebody else has taken the port by now.
            said = process.log_end();
        }
        panic!("Redis does not start\n{said}");
    }

    /// The URL, without a database.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the process at once, as a crash does.
    pub async fn kill9(&mut self) {
        self.process.kill9().await;
    }

    /// Starts the killed process again, on the same port and with what it had stored.
    pub async fn restart(&mut self) {
        self.process = spawn(self.folder.path(), self.port, &self.args);
        let ready = is_ready(&mut self.process, self.port).await;
        assert!(ready, "Redis does not start again\n{}", self.process.log_end());
    }

    /// Deletes everything.
    pub async fn flush_all(&self) {
        self.query::<()>(&cmd("FLUSHALL")).await;
    }

    /// Lets the process stand still: it accepts connections, and answers nothing.
    pub fn stop(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets a process that stands still go on.
    pub fn cont(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Sends one command past everybody, and panics if it fails.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> T {
        query(self.port, command).await.expect("Redis answers")
    }
}

async fn query<T: FromRedisValue>(port: u16, command: &Cmd) -> RedisResult<T> {
    let client = Client::open(format!("redis://127.0.0.1:{port}"))?;
    command.query_async(&mut client.get_multiplexed_async_connection().await?).await
}

/// Waits until the server has loaded its data; false if it ends instead.
async fn is_ready(process: &mut Process, port: u16) -> bool {
    eventually("Redis is ready", || {
        let ended = process.ended().is_some();
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

fn spawn(folder: &Path, port: u16, args: &[String]) -> Process {
    let mut command = command(tool("FOREBAY_REDIS_SERVER", "valkey-server"));
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]).arg(folder);
    command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "always"]).args(args);
    Process::start(command, folder)
}
