//! Rates, percentiles and the table that shows them.

use std::time::Duration;

use crate::VALUE_BYTES;

/// One line of the table.
#[derive(Debug, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) rate: String,
    pub(crate) megabytes: String,
    pub(crate) p50: String,
    pub(crate) p99: String,
}

impl Row {
    /// So many things of one kind within `time`, each with this many records of [`VALUE_BYTES`].
    pub(crate) fn rate(name: &str, unit: &str, count: usize, time: Duration) -> Self {
        let per_second = count as f64 / time.as_secs_f64();
        let megabytes = per_second * VALUE_BYTES as f64 / 1e6;
        Self {
            name: name.to_owned(),
            rate: format!("{per_second:.0} {unit}/s"),
            megabytes: format!("{megabytes:.1}"),
            ..Self::default()
        }
    }

    /// Adds percentiles.
    pub(crate) fn with_latencies(mut self, mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let at = |share: f64| {
            let index = (latencies.len() as f64 * share) as usize;
            latencies.get(index.min(latencies.len().saturating_sub(1)))
        };
        let show = |latency: Option<&Duration>| {
            latency.map_or_else(String::new, |latency| format!("{:.2} ms", latency.as_secs_f64() * 1e3))
        };
        (self.p50, self.p99) = (show(at(0.50)), show(at(0.99)));
        self
    }
}

/// The rows as Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut lines = vec!["| Case | Rate | MB/s | p50 | p99 |".to_owned(), "|---|---|---|---|---|".to_owned()];
    lines.extend(rows.iter().map(|row| {
        format!("| {} | {} | {} | {} | {} |", row.name, row.rate, row.megabytes, row.p50, row.p99)
    }));
    lines.join("\n")
}
