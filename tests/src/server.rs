//! The real server as a child process: start, kill, stop, start again on the same port and folder.

use std::ffi::OsString;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{Client, eventually, in_time};

/// Lines of the server's log that a failed test shows.
const LOG_LINES_SHOWN: usize = 60;

/// How to start a server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// More arguments of the command line.
    pub args: Vec<OsString>,
}

impl Options {
    /// The log below a prefix in the bucket of a server that speaks S3: [`SeaweedFs`](crate::SeaweedFs) or
    /// [`S3Server`](crate::S3Server).
    pub fn on_s3(url: &str) -> Self {
        let args = ["--store", "s3://bucket/team/events", "--s3-endpoint", url, "--s3-region", "us-east-1"];
        Self { args: args.map(OsString::from).to_vec() }
    }
}

/// A running server with a data folder of its own; both are gone when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    client: Client,
    address: String,
    args: Vec<OsString>,
    variables: Vec<(String, String)>,
    folder: TempDir,
}

impl Server {
    /// Starts a server with its defaults, and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    /// Starts a server, and waits until it is ready.
    pub async fn start_with(options: Options) -> Self {
        Self::start_in_environment(options, &[]).await
    }

    /// Starts a server with more environment variables, and waits until it is ready.
    pub async fn start_in_environment(options: Options, variables: &[(&str, &str)]) -> Self {
        let mut server = Self::launch(options, variables, "127.0.0.1:0").await;
        server.wait_ready().await;
        server
    }

    /// Starts a server that listens there, and waits until it does, which may be before it is ready.
    pub async fn launch(options: Options, variables: &[(&str, &str)], listen: &str) -> Self {
        let folder = TempDir::with_prefix("forebay-test-").expect("the temporary folder can be written");
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let variables: Vec<(String, String)> = variables.iter().map(owned).collect();
        let mut child = spawn(folder.path(), listen, &options.args, &variables);
        let log = folder.path().join("log");
        let address = eventually("the server logs its address", || {
            let found = address_in(&log);
            let ended = child.try_wait().ok().flatten();
            assert!(ended.is_none() || found.is_some(), "the server ended: {ended:?}\n{}", tail(&log));
            async move { found }
        })
        .await;
        let client = Client::new(&format!("http://{address}"));
        Self { child, client, address, args: options.args, variables, folder }
    }

    /// The URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens: `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The folder that holds everything stored.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(self.folder.path())
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the server has not been waited for")
    }

    /// Kills the process at once, as a crash does.
    pub async fn kill9(&mut self) {
        self.child.start_kill().expect("a child can be killed");
        in_time("the killed server ends", self.child.wait()).await.expect("a child can be waited for");
    }

    /// Stops the process where it stands, until [`Server::thaw`]: the kernel still takes connections for it.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process id is not zero");
        kill_process(pid, signal).expect("a child can be signalled");
    }

    /// Asks the process to end, and waits for it.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        in_time("the terminated server ends", self.child.wait()).await.expect("a child can be waited for")
    }

    /// Starts it again on the same port and folder once it has ended, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.relaunch();
        self.wait_ready().await;
    }

    /// Starts it again on the same port and folder once it has ended.
    pub fn relaunch(&mut self) {
        self.child = spawn(self.folder.path(), &self.address, &self.args, &self.variables);
    }

    /// Whether the process runs, be it frozen.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be looked at").is_none()
    }

    /// The name that it gave itself, once it has been ready.
    pub fn node_id(&self) -> String {
        let id = std::fs::read_to_string(self.data_dir().join("node")).expect("a node has a name");
        id.trim().to_owned()
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        tail(&self.folder.path().join("log"))
    }

    /// Starts it again with one more argument of the command line.
    pub async fn restart_with(&mut self, argument: &str) {
        self.args.push(argument.into());
        self.restart().await;
    }

    /// Starts it again once it has ended, waits until it refuses to run, and answers the end of its log.
    pub async fn refuses_to_restart(&mut self) -> String {
        self.child = spawn(self.folder.path(), &self.address, &self.args, &self.variables);
        let status = in_time("the server refuses to run", self.child.wait()).await;
        assert!(!status.expect("a child can be waited for").success());
        tail(&self.folder.path().join("log"))
    }

    /// Deletes its data folder, as the loss of its machine does.
    pub fn lose_data(&self) {
        std::fs::remove_dir_all(self.data_dir()).expect("it is there");
    }

    /// Waits until it is ready.
    pub async fn wait_ready(&mut self) {
        let (client, log) = (self.client.clone(), self.folder.path().join("log"));
        let child = &mut self.child;
        eventually("the server is ready", || {
            let ended = child.try_wait().ok().flatten();
            assert!(ended.is_none(), "the server ended: {ended:?}\n{}", tail(&log));
            let call = client.get("/readyz").try_send();
            async move { call.await.ok().filter(|answer| answer.status == 200) }
        })
        .await;
    }
}

impl Deref for Server {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the server's log ends with\n{}", tail(&self.folder.path().join("log")));
        }
    }
}

/// The binary under test: `FOREBAY_BIN`, or the one built beside the running executable.
pub fn server_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("FOREBAY_BIN") {
        return path.into();
    }
    let here = std::env::current_exe().expect("the running executable has a path");
    let found =
        here.ancestors().skip(1).take(2).map(|folder| folder.join("forebay")).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("no `forebay` beside {}: run `cargo build --workspace` first", here.display())
    })
}

fn data_dir(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// Starts the process; its output goes to a file, because an inherited pipe would outlive a failed test.
fn spawn(folder: &Path, listen: &str, args: &[OsString], variables: &[(String, String)]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log"));
    let log = log.expect("the temporary folder can be written");
    Command::new(server_binary())
        .args(["serve", "--listen", listen, "--data-dir"])
        .arg(data_dir(folder))
        .args(args)
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a file handle can be cloned"))
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .expect("the server can be started")
}

/// Where the server says that it listens.
fn address_in(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let (_, rest) = text.split_once("listening on http://127.0.0.1:")?;
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let ended = rest.len() > port.len();
    (ended && port != "0" && !port.is_empty()).then(|| format!("127.0.0.1:{port}"))
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}
