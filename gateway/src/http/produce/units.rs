//! A body of lines, applied in units in input order: the next unit is read while earlier ones are stored.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::http::App;
use crate::http::problem::{Code, Effect, Problem};
use crate::http::produce::args::ProduceArgs;
use crate::http::produce::body::Lines;
use crate::http::wire::ndjson::Line;
use crate::limits;
use crate::produce::{Enqueued, NewRecord, Produced, Progress, Unit};

/// Applies a body of lines. Returns where all of it is, and how many records that are.
pub(super) async fn apply(
    app: &App,
    args: &ProduceArgs,
    body: &mut Lines,
) -> Result<(Produced, u64), Problem> {
    let mut units = Units::new(app, args);
    let refused = units.read(body).await.err();
    units.settle_all().await;
    units.outcome(refused)
}

/// A unit, and the numbers of the lines it was made of.
#[derive(Debug, Default)]
struct LineUnit {
    unit: Unit,
    lines: Vec<u64>,
    /// When its first line came.
    begun: Option<Instant>,
}

/// A unit on its way.
#[derive(Debug)]
struct Sent {
    enqueued: Enqueued,
    records: u64,
    last_line: u64,
}

/// The units of one request.
#[derive(Debug)]
struct Units<'a> {
    app: &'a App,
    args: &'a ProduceArgs,
    waiting: VecDeque<Sent>,
    progress: Progress,
    /// The last line of the units stored without a gap from the first on, and their records.
    stored_lines: u64,
    stored_records: u64,
    total: Produced,
    /// Of the first unit that was not stored.
    failed: Option<Problem>,
    /// A unit after that one was stored by this request, or may have been.
    stored_behind: bool,
}

impl<'a> Units<'a> {
    fn new(app: &'a App, args: &'a ProduceArgs) -> Self {
        Self {
            app,
            args,
            waiting: VecDeque::new(),
            progress: Progress::default(),
            stored_lines: 0,
            stored_records: 0,
            total: Produced::default(),
            failed: None,
            stored_behind: false,
        }
    }

    /// Sends the units of a body off until it ends, or one fails. What is read of a unit before a mistake in it is not
    /// sent.
    async fn read(&mut self, body: &mut Lines) -> Result<(), Problem> {
        let mut next = LineUnit::default();
        while let Some(line) = self.next_line(body, &mut next).await? {
            let number = line.number;
            let new = self.args.record(line)?;
            if next.unit.is_full_for(&new.record) {
                if self.args.options.expected.is_some() {
                    let limit = forebay_log::limits::UNIT_RECORDS_MAX;
                    let detail = format!("a conditional append holds at most {limit} records and 4 MiB");
                    return Err(Problem::new(Code::TooLarge, detail).with("limit", limit));
                }
                self.send(std::mem::take(&mut next)).await?;
                if self.failed.is_some() {
                    return Ok(());
                }
                body.release();
            }
            next.push(number, new);
        }
        if next.unit.is_empty() { Ok(()) } else { self.send(next).await }
    }

    /// Returns the next line. When a body of unknown length pauses, or its first line has waited for long, what was read of
    /// it is sent off first: whoever pipes a growing file into a topic sees its lines there. Not when it may be a retry, which has to be cut at the
    /// same places, nor in a conditional append, which is one unit.
    async fn next_line(&mut self, body: &mut Lines, next: &mut LineUnit) -> Result<Option<Line>, Problem> {
        let options = &self.args.options;
        let by_arrival = body.is_endless() && options.idempotency.is_none() && options.expected.is_none();
        if by_arrival && !next.unit.is_empty() {
            let age = next.begun.map_or(Duration::ZERO, |begun| begun.elapsed());
            let pause = limits::UNIT_PAUSE.min(limits::UNIT_AGE_MAX.saturating_sub(age));
            if let Ok(line) = tokio::time::timeout(pause, body.next_line()).await {
                return line;
            }
            self.send(std::mem::take(next)).await?;
            self.settle_all().await;
            if self.failed.is_some() {
                return Ok(None);
            }
            body.release();
        }
        body.next_line().await
    }

    /// Returns how many units may be on their way. What may be a retry goes one by one up to its first new unit: should
    /// it turn out to be another body under a used name, nothing behind the difference is stored.
    fn window(&self) -> usize {
        let found_new = self.stored_records > 0 && !self.total.replayed;
        if self.args.options.idempotency.is_none() || found_new { limits::UNITS_IN_FLIGHT_MAX } else { 1 }
    }

    async fn send(&mut self, LineUnit { unit, lines, .. }: LineUnit) -> Result<(), Problem> {
        while self.waiting.len() >= self.window() {
            self.settle_one().await;
        }
        if self.failed.is_some() {
            return Ok(());
        }
        let (records, last_line) = (unit.len() as u64, lines.last().copied().unwrap_or_default());
        let topic = self.args.topic_for(self.app, &unit).await?;
        let ProduceArgs { sticky, options, .. } = self.args;
        let enqueued = self.app.producer.enqueue(&topic, unit, *sticky, &mut self.progress, options).await;
        match enqueued {
            Ok(enqueued) => self.waiting.push_back(Sent { enqueued, records, last_line }),
            Err(error) => {
                let line = error.index().and_then(|index| lines.get(index).copied());
                let problem = self.args.problem(self.app, error).await;
                return Err(match line {
                    Some(line) => problem.with("line", line),
                    None => problem,
                });
            }
        }
        Ok(())
    }

    async fn settle_all(&mut self) {
        while !self.waiting.is_empty() {
            self.settle_one().await;
        }
    }

    async fn settle_one(&mut self) {
        let Some(Sent { enqueued, records, last_line }) = self.waiting.pop_front() else { return };
        let acknowledged = match enqueued.acknowledged().await {
            Ok(produced) => Ok(produced),
            Err(error) => Err(self.args.problem(self.app, error).await),
        };
        match (acknowledged, &self.failed) {
            (Ok(produced), None) => self.add(produced, records, last_line),
            (Err(problem), None) => self.failed = Some(problem),
            (Ok(produced), Some(_)) => self.stored_behind |= !produced.replayed,
            (Err(problem), Some(_)) => self.stored_behind |= problem.effect != Effect::None,
        }
    }

    fn add(&mut self, produced: Produced, records: u64, last_line: u64) {
        let first = self.stored_records == 0;
        self.stored_records += records;
        self.stored_lines = last_line;
        self.total.replayed = produced.replayed && (first || self.total.replayed);
        for run in produced.runs {
            match self.total.runs.binary_search_by_key(&run.partition, |total| total.partition) {
                Ok(at) => self.total.runs[at].extend(run),
                Err(at) => self.total.runs.insert(at, run),
            }
        }
        // Of several units only a summary is answered.
        self.total.records = if first { produced.records } else { Vec::new() };
    }

    /// Says what the request came to. A unit that failed comes before a mistake in a later line.
    fn outcome(self, refused: Option<Problem>) -> Result<(Produced, u64), Problem> {
        let Some(problem) = self.failed.or(refused) else {
            return match self.stored_records {
                0 => Err(Problem::new(Code::BadParameter, "the request holds no record")),
                records => Ok((self.total, records)),
            };
        };
        let some = self.stored_records > 0;
        let effect = match problem.effect {
            Effect::None if self.stored_behind => Effect::Unknown,
            Effect::None if some => Effect::Partial,
            effect => effect,
        };
        let problem = problem.with_effect(effect);
        Err(if some { problem.with("stored_lines", self.stored_lines) } else { problem })
    }
}

impl LineUnit {
    fn push(&mut self, line: u64, record: NewRecord) {
        self.lines.push(line);
        self.unit.push(record);
    }
}
