//! The binary `forebay`.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use forebay_gateway::config::{Command, Config, ConfigError, LogFormat};
use forebay_gateway::report::ReportFormat;
use forebay_log::clock::SystemClock;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match Command::from_process() {
        Ok(Command::Serve(config)) => serve(*config).map(|()| true),
        Ok(Command::Doctor(config, format)) => doctor(&config, format),
        Ok(Command::BucketInit { config, dry_run }) => bucket_init(&config, dry_run),
        Ok(Command::Openapi) => print_openapi().map(|()| true),
        Err(ConfigError::Usage(usage)) => usage.exit(),
        Err(error) => Err(error.into()),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // There is nowhere else to say it.
            let _ = writeln!(std::io::stderr(), "forebay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(config: Config) -> anyhow::Result<()> {
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("FOREBAY_LOG_FILTER").unwrap_or_else(|_| "info".into());
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match config.log {
        LogFormat::Text => logs.with_target(false).init(),
        LogFormat::Json => logs.json().init(),
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    forebay_gateway::run(config, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
    .await
}

#[tokio::main]
async fn doctor(config: &Config, format: ReportFormat) -> anyhow::Result<bool> {
    let redis = config.cluster.as_ref().map(|cluster| cluster.redis.info().clone());
    let report = forebay_gateway::doctor::run(config, redis, &SystemClock).await?;
    write!(std::io::stdout(), "{}", report.render(format)?)?;
    Ok(report.is_good())
}

#[tokio::main]
async fn bucket_init(config: &Config, dry_run: bool) -> anyhow::Result<bool> {
    let report = forebay_gateway::bucket::init(config, dry_run).await?;
    write!(std::io::stdout(), "{}", report.render(ReportFormat::Text)?)?;
    Ok(report.is_good())
}

fn print_openapi() -> anyhow::Result<()> {
    let document = forebay_gateway::http::openapi().to_pretty_json()?;
    writeln!(std::io::stdout(), "{document}")?;
    Ok(())
}
