//! Child processes of tests: found, started with their output in a file, sent signals, and gone when they are dropped.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::in_time;

/// Lines of its log that a failed test shows.
const LOG_LINES_SHOWN: usize = 60;
/// Variables that a process gets from its test only: what is set in somebody's shell must not change what is tested.
const VARIABLES_NOT_INHERITED: [&str; 2] = ["FOREBAY_", "AWS_"];
/// Environment variables by name.
pub(crate) type Variables = Vec<(OsString, OsString)>;

/// How often a killed process is looked at when it is dropped, and the pause between two looks.
const END_LOOKS_MAX: u32 = 5000;
const END_LOOK_PAUSE: Duration = Duration::from_millis(1);

/// A program that `tests/run` installs, or the one that a variable names instead.
pub(crate) fn tool(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin").join(name);
    assert!(path.is_file(), "no {name}: run `tests/run` once, or set {variable}");
    path
}

/// A command whose process does not see the shell's settings of gateways and of stores.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in variables_of(&VARIABLES_NOT_INHERITED) {
        command.env_remove(name);
    }
    command
}

/// The variables of this process whose names begin so.
pub(crate) fn variables_of(prefixes: &[&str]) -> Variables {
    let is_one = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_one)).collect()
}

/// A process; it is killed and waited for when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it without input. Its output goes to a file in the folder, because an inherited pipe would outlive a failed
    /// test.
    pub(crate) fn start(mut command: Command, folder: &Path) -> Self {
        let log = log_file(&log_path(folder));
        command.stdin(Stdio::null()).stdout(log);
        Self::start_piped(command, folder)
    }

    /// Starts it with the input and output that the command names. What it says of errors goes to a file in the folder.
    pub(crate) fn start_piped(mut command: Command, folder: &Path) -> Self {
        let log = log_path(folder);
        let child = command.stderr(log_file(&log)).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs programs"));
        Self { child, log }
    }

    /// The process id.
    ///
    /// # Panics
    /// It was waited for.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("the process has not been waited for")
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be looked at")
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.id().cast_signed()).expect("a process id is not zero");
        kill_process(id, signal).expect("a child can be sent a signal");
    }

    /// Waits until it ends.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        in_time("the process ends", self.child.wait()).await.expect("a child can be waited for")
    }

    /// Kills it at once, as a crash does, and waits for it.
    pub(crate) async fn kill9(&mut self) {
        self.child.start_kill().expect("a child can be killed");
        self.wait().await;
    }

    /// The end of its output.
    pub(crate) fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    /// Kills it and waits for it without awaiting, as a drop has to. It may be gone already.
    #[expect(clippy::disallowed_methods, reason = "a drop cannot await, and another process is waited for")]
    pub(crate) fn end(&mut self) {
        let _ = self.child.start_kill();
        for _ in 0..END_LOOKS_MAX {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(END_LOOK_PAUSE);
        }
    }
}

/// Its folder is deleted next, so it must not write there any more.
impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("log")
}

fn log_file(path: &Path) -> File {
    let file = File::options().create(true).append(true).open(path);
    file.expect("the temporary folder can be written")
}
