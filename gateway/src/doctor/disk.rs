//! What the machine gives a node: its data folder, and files to open.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use forebay_log::limits as log_limits;
use rustix::process::{Pid, Resource, getrlimit, test_kill_process};
use tokio::time::Instant;

use super::{Latency, in_time};
use crate::config::Config;
use crate::limits;
use crate::report::Report;

/// Written at a time: what a group of small appends comes to.
const BLOCK: [u8; 4096] = [0x5a; 4096];

/// Checks how many files the process may open.
pub(super) fn files(config: &Config, report: &mut Report) {
    let limit = getrlimit(Resource::Nofile).maximum;
    let wanted = (config.max_connections + limits::OTHER_FILES_MAX) as u64;
    match limit {
        Some(limit) if limit < wanted => {
            let room = limit.saturating_sub(limits::OTHER_FILES_MAX as u64);
            let detail =
                format!("{limit} at most: room for {room} connections of {}", config.max_connections);
            report.warn("files", detail);
        }
        Some(limit) => report.ok("files", format!("{limit} at most")),
        None => report.ok("files", "without a limit"),
    }
}

/// Checks the data folder, or where it would be made.
pub(super) async fn data_dir(config: &Config, report: &mut Report) {
    let (folder, journal_bytes) = (config.data_dir.clone(), config.journal_bytes);
    let looking = tokio::task::spawn_blocking(move || {
        let mut found = Report::default();
        look(&folder, journal_bytes, &mut found);
        found
    });
    match in_time(looking).await {
        Some(Ok(mut found)) => report.checks.append(&mut found.checks),
        _ => report.fail("data-dir", format!("{} gives no answer", config.data_dir.display())),
    }
}

fn look(data_dir: &Path, journal_bytes: u64, report: &mut Report) {
    let Some(folder) = nearest(data_dir) else {
        return report.fail("data-dir", format!("{} cannot be made", data_dir.display()));
    };
    let state = match holder(data_dir) {
        _ if folder != data_dir => "not there yet: the first start makes it".to_owned(),
        Some(pid) => format!("in use by process {pid}"),
        None => "not in use".to_owned(),
    };
    report.ok("data-dir", format!("{}: {state}", data_dir.display()));
    match syncs(folder) {
        Ok(latency) if latency.median() > limits::DOCTOR_SYNC_WARN => {
            let detail =
                format!("sync {}: appends that the journal acknowledges wait as long", latency.describe());
            report.warn("disk.sync", detail);
        }
        Ok(latency) => report.ok("disk.sync", format!("sync {}", latency.describe())),
        Err(error) => {
            return report.fail("disk.sync", format!("cannot write to {}: {error}", folder.display()));
        }
    }
    match rustix::fs::statvfs(folder) {
        Ok(stat) => space(stat.f_bavail.saturating_mul(stat.f_frsize), journal_bytes, report),
        Err(error) => report.warn("disk.space", format!("cannot be told: {error}")),
    }
}

fn space(free: u64, journal_bytes: u64, report: &mut Report) {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let free_text = gib(free);
    if free < 2 * log_limits::JOURNAL_FILE_BYTES {
        report.fail("disk.space", format!("{free_text} free: the journal cannot be written"));
    } else if free < journal_bytes {
        let detail = format!("{free_text} free: less than the journal may take, {}", gib(journal_bytes));
        report.warn("disk.space", detail);
    } else {
        report.ok("disk.space", format!("{free_text} free"));
    }
}

/// Returns the folder, or the nearest above it that is there.
fn nearest(folder: &Path) -> Option<&Path> {
    let here = Path::new(".");
    folder
        .ancestors()
        .map(|path| if path.as_os_str().is_empty() { here } else { path })
        .find(|path| path.is_dir())
}

/// Returns the process that holds the folder. Trying the lock could refuse a node that starts just then; so the process
/// that the lock names is looked for, which may be another by now.
fn holder(data_dir: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(data_dir.join("lock")).ok()?;
    let pid: i32 = text.trim().parse().ok()?;
    test_kill_process(Pid::from_raw(pid)?).is_ok().then_some(pid)
}

/// Writes and syncs a file of its own a few times, and removes it.
fn syncs(folder: &Path) -> io::Result<Latency> {
    let path = folder.join(format!(".forebay-doctor-{}", std::process::id()));
    let mut file = File::options().write(true).create_new(true).open(&path)?;
    let mut latency = Latency::default();
    let written = (0..limits::DOCTOR_CALLS).try_for_each(|_| {
        let begun = Instant::now();
        file.write_all(&BLOCK)?;
        file.sync_data()?;
        latency.0.push(begun.elapsed());
        Ok(())
    });
    std::fs::remove_file(&path)?;
    written.map(|()| latency)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;

    #[test]
    fn a_folder_is_looked_at_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("lock"), format!("{}\n", std::process::id())).unwrap();
        let mut report = Report::default();
        look(folder.path(), 0, &mut report);
        assert!(report.is_good(), "{report:?}");
        assert!(report.checks[0].detail.ends_with(&format!("in use by process {}", std::process::id())));
        let left: Vec<_> =
            folder.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"]);
        let (absent, mut report) = (folder.path().join("a/b"), Report::default());
        look(&absent, 0, &mut report);
        assert!(report.is_good() && !absent.exists(), "{report:?}");
        let mut report = Report::default();
        look(&folder.path().join("lock/below"), 0, &mut report);
        assert!(report.is_good(), "the folder above is there: {report:?}");
    }

    #[test]
    fn space_is_judged_by_what_the_journal_may_take() {
        let judged = |free: u64| {
            let mut report = Report::default();
            space(free, 1 << 30, &mut report);
            report.checks[0].status
        };
        assert_eq!([1 << 20, 1 << 29, 1 << 31].map(judged), [Status::Fail, Status::Warn, Status::Ok]);
    }
}
