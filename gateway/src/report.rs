//! What a command that checks or sets up something has found: one line each, for people or for machines.

use std::fmt::Write as _;

use serde::Serialize;

/// Form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ReportFormat {
    /// A line for each finding.
    #[default]
    Text,
    /// One document.
    Json,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, and somebody should look at it.
    Warn,
    /// A node would not work, or lose what it holds.
    Fail,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at: stable, for machines.
    pub name: &'static str,
    /// How it ended.
    pub status: Status,
    /// In words.
    pub detail: String,
}

/// Findings in the order in which they were made.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// The findings.
    pub checks: Vec<Check>,
}

impl Report {
    /// Adds a finding.
    pub fn add(&mut self, name: &'static str, status: Status, detail: impl Into<String>) {
        self.checks.push(Check { name, status, detail: detail.into() });
    }

    /// Adds one that is as it should be.
    pub fn ok(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Status::Ok, detail);
    }

    /// Adds one that somebody should look at.
    pub fn warn(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Status::Warn, detail);
    }

    /// Adds one that keeps a node from working.
    pub fn fail(&mut self, name: &'static str, detail: impl Into<String>) {
        self.add(name, Status::Fail, detail);
    }

    /// Tells whether nothing failed.
    pub fn is_good(&self) -> bool {
        self.checks.iter().all(|check| check.status != Status::Fail)
    }

    /// Writes the report out.
    ///
    /// # Errors
    /// Should a finding not fit into JSON.
    pub fn render(&self, format: ReportFormat) -> serde_json::Result<String> {
        if format == ReportFormat::Json {
            let document = serde_json::json!({ "ok": self.is_good(), "checks": self.checks });
            return serde_json::to_string_pretty(&document).map(|text| text + "\n");
        }
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
        let mut text = String::new();
        for Check { name, status, detail } in &self.checks {
            // A text never refuses what is written to it.
            let _ = writeln!(text, "{:<4}  {name:<width$}  {detail}", status.word());
        }
        Ok(text)
    }
}

/// Puts an error and its causes into one line.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_the_same_to_people_and_to_machines() {
        let mut report = Report::default();
        report.ok("store.probe", "keeps its promises");
        report.warn("disk", "nearly full");
        assert!(report.is_good());
        report.fail("redis", "does not answer");
        assert!(!report.is_good());
        let text = report.render(ReportFormat::Text).unwrap();
        assert_eq!(text.lines().next(), Some("ok    store.probe  keeps its promises"));
        assert!(text.ends_with("FAIL  redis        does not answer\n"), "{text}");
        let json: serde_json::Value =
            serde_json::from_str(&report.render(ReportFormat::Json).unwrap()).unwrap();
        assert_eq!((&json["ok"], &json["checks"][1]["status"]), (&false.into(), &"warn".into()));
    }
}
