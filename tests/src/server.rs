//! The real server as a child process: start, kill, stop, start again on the same port and folder.

use std::ffi::OsString;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::process::Command;

use crate::ports::free_port;
use crate::process::{Process, Variables, command};
use crate::{Client, SharedStore, eventually};

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
    process: Process,
    client: Client,
    address: String,
    args: Vec<OsString>,
    variables: Variables,
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
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let mut server = Self::launch(options, variables);
        server.wait_ready().await;
        server
    }

    /// Starts a server that refuses to run, waits until it has ended, and answers what it said.
    pub async fn refuses_to_start_on(store: &SharedStore, args: &[&str]) -> String {
        let folder = TempDir::with_prefix("forebay-test-").expect("the temporary folder can be written");
        let address = format!("127.0.0.1:{}", free_port());
        let mut process = spawn(folder.path(), &address, &store.options(args).args, &store.variables());
        let status = process.wait().await;
        assert!(!status.success(), "{status}");
        process.log_end()
    }

    /// Starts a server on a store with more arguments of its command line, and waits until it is ready.
    pub async fn start_on(store: &SharedStore, args: &[&str]) -> Self {
        let mut server = Self::launch(store.options(args), store.variables());
        server.wait_ready().await;
        server
    }

    /// Starts a server with more environment variables, and waits for nothing.
    pub(crate) fn launch(options: Options, variables: Variables) -> Self {
        let folder = TempDir::with_prefix("forebay-test-").expect("the temporary folder can be written");
        let address = format!("127.0.0.1:{}", free_port());
        let process = spawn(folder.path(), &address, &options.args, &variables);
        let client = Client::new(&format!("http://{address}"));
        Self { process, client, address, args: options.args, variables, folder }
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
        self.process.id()
    }

    /// Kills the process at once, as a crash does.
    pub async fn kill9(&mut self) {
        self.process.kill9().await;
    }

    /// Stops the process where it stands, until [`Server::thaw`]: the kernel still takes connections for it.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets a frozen process go on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Asks the process to end, and waits for it.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait().await
    }

    /// Starts it again on the same port and folder once it has ended, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.relaunch();
        self.wait_ready().await;
    }

    /// Starts it again on the same port and folder once it has ended.
    pub fn relaunch(&mut self) {
        self.process = spawn(self.folder.path(), &self.address, &self.args, &self.variables);
    }

    /// Whether the process runs, be it frozen.
    pub fn is_running(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// The name that it gave itself, once it has been ready.
    pub fn node_id(&self) -> String {
        let id = std::fs::read_to_string(self.data_dir().join("node")).expect("a node has a name");
        id.trim().to_owned()
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        self.process.log_end()
    }

    /// Starts it again with one more argument of the command line.
    pub async fn restart_with(&mut self, argument: &str) {
        self.args.push(argument.into());
        self.restart().await;
    }

    /// Starts it again once it has ended, waits until it refuses to run, and answers the end of its log.
    pub async fn refuses_to_restart(&mut self) -> String {
        self.relaunch();
        let status = self.process.wait().await;
        assert!(!status.success(), "{status}");
        self.process.log_end()
    }

    /// Deletes its data folder, as the loss of its machine does.
    pub fn lose_data(&self) {
        std::fs::remove_dir_all(self.data_dir()).expect("it is there");
    }

    /// Waits until it is ready.
    pub async fn wait_ready(&mut self) {
        let (process, client) = (&mut self.process, &self.client);
        eventually("the server is ready", || {
            let ended = process.ended();
            assert!(ended.is_none(), "the server ended: {ended:?}\n{}", process.log_end());
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
            eprintln!("---- the server's log ends with\n{}", self.process.log_end());
        }
    }
}

/// `FOREBAY_BIN`, or the one built beside the running executable.
fn server_binary() -> PathBuf {
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

/// A command of the binary under test that sees none of the shell's settings of gateways and of stores.
pub fn forebay() -> Command {
    command(server_binary())
}

fn spawn(folder: &Path, listen: &str, args: &[OsString], variables: &[(OsString, OsString)]) -> Process {
    let mut command = forebay();
    command.args(["serve", "--listen", listen, "--data-dir"]).arg(data_dir(folder)).args(args);
    command.envs(variables.iter().cloned());
    Process::start(command, folder)
}
