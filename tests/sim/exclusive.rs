//! One process on an exclusive store: a synced journal acknowledges, objects follow behind. It is killed, or loses its
//! power, at any time, also inside a call of its disk and while it replays its journal.
//!
//! Judged by what outlives the process: whatever was acknowledged or read is there again at its offset, exactly once,
//! and no offset ever carries two records. Records whose frames a bit flip destroyed may be lost, but their offsets must
//! not be given out again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forebay_log::journal::frame::{self, FILE_HEADER_LEN, Seal};
use forebay_log::journal::{Frame, JournalError, JournalOptions, Replay, scan};
use forebay_log::limits;
use forebay_log::model::{Offset, WalSeq};
use forebay_log::shard::SharedJournal;
use forebay_log::shard::append::Dedupe;
use forebay_log::shard::taker::PutAnswer;
use forebay_log::testing::BareWriter;
use forebay_log::testing::bare::{Action, BareLeader, BareOptions, Reply};
use forebay_log::testing::mutation::{self, Mutation};

use crate::check::{Check, Violation, violation};
use crate::client::Sent;
use crate::config::PARTITIONS;
use crate::disk::{DISK_FAULTS, Disk, DiskConfig, SharedDisk};
use crate::rng::Rng;
use crate::store::{self, Key, Op, RecordId, Run, Store, try_decode_runs};
use crate::takeover::{GAP, take_over};
use crate::world::{CLUSTER, SHARD, partition, timestamp};

/// What happened in the runs of this configuration.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DiskStats {
    pub(crate) steps: u64,
    pub(crate) restarts: u64,
    pub(crate) acked: u64,
    pub(crate) replayed: u64,
    pub(crate) jumps: u64,
    pub(crate) dead_journals: u64,
    pub(crate) full_journals: u64,
    pub(crate) faults: [u64; DISK_FAULTS.len()],
}

impl DiskStats {
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.restarts += other.restarts;
        self.acked += other.acked;
        self.replayed += other.replayed;
        self.jumps += other.jumps;
        self.dead_journals += other.dead_journals;
        self.full_journals += other.full_journals;
        for (sum, more) in self.faults.iter_mut().zip(other.faults) {
            *sum += more;
        }
    }
}

impl fmt::Display for DiskStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} steps, {} starts, {} acknowledged appends", self.steps, self.restarts, self.acked)?;
        writeln!(
            f,
            "{} frames replayed, {} jumps, {} dead journals, {} full journals",
            self.replayed, self.jumps, self.dead_journals, self.full_journals
        )?;
        for (fault, count) in DISK_FAULTS.iter().zip(self.faults) {
            writeln!(f, "  fault {fault:?}: {count}")?;
        }
        Ok(())
    }
}

/// What dies with the process.
#[derive(Debug)]
struct Process {
    journal: SharedJournal,
    writer: BareWriter,
    leader: BareLeader,
    waiting: Vec<(Reply, Sent)>,
    puts: BTreeMap<u64, Bytes>,
    watermarks: [u64; PARTITIONS],
    dead: bool,
}

/// What outlives it, and what is known.
#[derive(Debug)]
struct Exclusive {
    rng: Rng,
    now: u64,
    disk: SharedDisk,
    store: Store,
    options: JournalOptions,
    crash: f64,
    flip: f64,
    stats: DiskStats,
    records: RecordId,
    sequence: u32,
    /// Everything that was acknowledged or read, by partition and offset.
    known: BTreeMap<(usize, u64), RecordId>,
    /// Records in frames that a bit flip destroyed.
    damaged: BTreeSet<RecordId>,
    /// Whether a bit was ever flipped.
    flipped: bool,
    /// Whether this process began with damage: then more of it, soon, is the worst that can happen.
    jumped: bool,
    /// Named appends without an answer, to be sent again.
    in_doubt: Vec<Sent>,
    trace: Option<Vec<String>>,
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct DiskRun {
    pub(crate) stats: DiskStats,
    pub(crate) result: Check,
    pub(crate) trace: Vec<String>,
}

/// Plays one seed.
pub(crate) fn run(seed: u64, traced: bool) -> DiskRun {
    let mut rng = Rng::new(seed ^ 0xd15c);
    let mut share = |max: f64| match rng.below(3) {
        0 => 0.0,
        1 => max * 0.2,
        _ => max,
    };
    let config = DiskConfig {
        no_space: share(0.01),
        failed_sync: share(0.02),
        short_write: share(0.3),
        crash_inside: share(0.03),
    };
    let (crash, flip) = (share(0.02) + 0.004, share(0.5));
    let bytes_max = [1 << 20, 1 << 20, 12 << 10][rng.index(3)];
    let options = JournalOptions { file_bytes: 2048, bytes_max, ..JournalOptions::new("", CLUSTER) };
    let mut exclusive = Exclusive {
        disk: SharedDisk::new(Disk::new(Rng::new(rng.next()), config)),
        rng,
        now: 0,
        store: Store::default(),
        options,
        crash,
        flip,
        stats: DiskStats::default(),
        records: 0,
        sequence: 0,
        known: BTreeMap::new(),
        damaged: BTreeSet::new(),
        flipped: false,
        jumped: false,
        in_doubt: Vec::new(),
        trace: traced.then(Vec::new),
    };
    let result = exclusive.play();
    exclusive.stats.faults = exclusive.disk.get().faults();
    DiskRun { stats: exclusive.stats, result, trace: exclusive.trace.unwrap_or_default() }
}

impl Exclusive {
    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>7} {}", self.stats.steps, line()));
        }
    }

    fn play(&mut self) -> Check {
        let lives = self.rng.between(2, 6);
        for _ in 0..lives {
            let Some(mut process) = self.start()? else { continue };
            self.live(&mut process)?;
            self.end(process);
        }
        // Without faults it starts, takes an append and stores everything.
        self.disk.get().config = DiskConfig::default();
        self.crash = 0.0;
        let Some(mut process) = self.start()? else {
            return violation("liveness", "a healthy disk, and the node does not start");
        };
        let before = self.stats.acked;
        self.appends(&mut process)?;
        for _ in 0..10_000 {
            self.journal_turn(&mut process)?;
            self.freeze(&mut process)?;
            self.put(&mut process)?;
            if process.leader.is_idle() {
                break;
            }
        }
        if !process.leader.is_idle() || self.stats.acked == before {
            return violation("liveness", "a healthy disk, and appends are not stored");
        }
        drop(process);
        self.disk.get().fail_power();
        self.start().map(|_| ())
    }

    /// Lets the process live until it dies.
    fn live(&mut self, process: &mut Process) -> Check {
        let crash = if self.jumped { self.crash.max(0.05) } else { self.crash };
        while !self.rng.chance(crash) && !self.disk.get().crashed {
            self.stats.steps += 1;
            self.now += self.rng.below(100_000);
            match self.rng.below(10) {
                0..=2 => self.appends(process)?,
                3..=5 => self.journal_turn(process)?,
                6 => self.freeze(process)?,
                7..=8 => self.put(process)?,
                _ => self.read(process)?,
            }
        }
        Ok(())
    }

    /// The process dies: its disk keeps what a kill or a loss of power leaves.
    fn end(&mut self, process: Process) {
        let power = self.rng.chance(0.6);
        self.note(|| format!("the process dies; the power fails: {power}"));
        let Process { waiting, puts, .. } = process;
        self.in_doubt.extend(waiting.into_iter().map(|(_, sent)| sent).filter(|sent| sent.name.is_some()));
        for (seq, bytes) in puts {
            if self.rng.chance(0.3) {
                self.store.apply(&Op::Create(Key::Wal(seq), bytes));
            }
        }
        if power {
            self.disk.get().fail_power();
        } else {
            self.disk.get().kill();
        }
        let flip = if self.jumped && self.flip > 0.0 { 0.8 } else { self.flip };
        while self.rng.chance(flip) {
            self.flip_a_bit();
        }
    }

    /// Flips a bit in a frame of which a later byte says that it was synced. Damage to the last synced group cannot be
    /// told from a torn tail, as the journal says.
    fn flip_a_bit(&mut self) {
        let seal = Seal::new(CLUSTER);
        let contents = self.disk.get().contents();
        let scans: Vec<_> =
            contents.iter().map(|(number, bytes)| (*number, scan::scan(bytes, &seal, None))).collect();
        let proven = scans.iter().flat_map(|(_, scan)| &scan.found).map(|found| found.synced_below).max();
        let Some(proven) = proven else { return };
        let targets: Vec<_> = scans
            .iter()
            .flat_map(|(number, scan)| scan.found.iter().map(|found| (*number, *found)))
            .filter(|(_, found)| found.number.plus(1) < proven)
            .collect();
        if targets.is_empty() {
            return;
        }
        // The newest ones matter most: nothing else holds their records yet.
        let newest = if self.jumped { 0.9 } else { 0.5 };
        let from = if self.rng.chance(newest) { targets.len().saturating_sub(3) } else { 0 };
        let (number, found) = targets[from + self.rng.index(targets.len() - from)];
        if self.rng.chance(0.1) {
            return self.flip_in_header(number);
        }
        let Some((_, bytes)) = contents.iter().find(|(file, _)| *file == number) else { return };
        let image = Bytes::copy_from_slice(&bytes[found.position..found.position + found.len]);
        if let Ok(Some(Frame::Append { batches, .. })) = frame::decode(&image) {
            for batch in batches {
                let runs = try_decode_runs(0, batch.bytes).unwrap_or_default();
                self.damaged.extend(runs.into_iter().flat_map(|run| run.records));
            }
        }
        let at = found.position + self.rng.index(found.len);
        self.note(|| format!("a bit flips in frame {} of file {number}", found.number));
        self.flipped = true;
        self.disk.get().flip(number, at);
    }

    /// Flips a bit in a file's header: no frame is lost by that. (The version's bytes are left alone: another version is
    /// refused.)
    fn flip_in_header(&mut self, number: u64) {
        let at = [self.rng.index(8), 10 + self.rng.index(FILE_HEADER_LEN - 10)][self.rng.index(2)];
        self.note(|| format!("a bit flips in the header of file {number}"));
        self.flipped = true;
        self.disk.get().flip(number, at);
    }

    /// Opens the journal, takes the shard over, replays. None when the process died or failed meanwhile.
    fn start(&mut self) -> Result<Option<Process>, Violation> {
        self.stats.restarts += 1;
        let disk = self.disk.clone();
        let opened = BareWriter::open(&self.options, Box::new(disk.clone()), Arc::new(disk));
        let (journal, writer, mut replay) = match opened {
            Ok(opened) => opened,
            Err(JournalError::Io { .. }) => {
                self.note(|| "the journal cannot be opened".into());
                self.disk.get().fail_power();
                return Ok(None);
            }
            Err(error) => return violation("alarm", format!("the journal is refused: {error:?}")),
        };
        let journal = SharedJournal::new(journal);
        let nonces = self.rng.next();
        let leadership = take_over(&mut self.store, SHARD, self.now, nonces)?;
        let options = BareOptions {
            exclusive: true,
            journal: Some(journal.clone()),
            flush_linger: limits::FLUSH_LINGER_EXCLUSIVE,
            object_bytes: [1, 400, 4_000][self.rng.index(3)],
            spill_bytes: 0,
        };
        let mut leader = BareLeader::new(leadership, options);
        let early = mutation::is(Mutation::ReadyBeforeReplay);
        let waiting = if early { self.send(&mut leader) } else { Vec::new() };
        let puts = BTreeMap::new();
        let mut process =
            Process { journal, writer, leader, waiting, puts, watermarks: [0; PARTITIONS], dead: false };
        if early {
            self.journal_turn(&mut process)?;
        }
        if !self.replay(&mut process, &mut replay)? {
            self.end(process);
            return Ok(None);
        }
        self.everything_is_there(&process)?;
        Ok(Some(process))
    }

    /// Takes back the journal's frames; false when the process died over it.
    fn replay(&mut self, process: &mut Process, replay: &mut Replay) -> Result<bool, Violation> {
        let damaged = !replay.damage.is_empty();
        let damage = format!("{:?}, torn {}", replay.damage, replay.torn_bytes);
        self.note(|| format!("starts; damage: {damage}"));
        loop {
            if self.rng.chance(self.crash * 0.2) {
                return Ok(false);
            }
            let replayed = match replay.next() {
                Ok(Some(replayed)) => replayed,
                Ok(None) => break,
                Err(error) => return violation("alarm", format!("the journal cannot be read: {error:?}")),
            };
            self.stats.replayed += 1;
            let number = replayed.entry.number;
            if let Err(error) = process.leader.recover(Duration::from_micros(self.now), replayed) {
                return violation("alarm", format!("frame {number} cannot be taken back: {error:?}"));
            }
        }
        self.stats.jumps += u64::from(damaged);
        self.jumped = damaged;
        let all: Vec<_> = (0..PARTITIONS).map(partition).collect();
        process.leader.recovered(Duration::from_micros(self.now), damaged, &all);
        Ok(true)
    }

    fn send(&mut self, leader: &mut BareLeader) -> Vec<(Reply, Sent)> {
        let mut sent = Vec::new();
        if !self.in_doubt.is_empty() && self.rng.chance(0.5) {
            let index = self.rng.index(self.in_doubt.len());
            sent.push(self.in_doubt.swap_remove(index));
        }
        for _ in 0..self.rng.between(1, 3) {
            let first = self.rng.index(PARTITIONS);
            let both = self.rng.chance(0.3);
            let mut records = Vec::new();
            for number in (0..PARTITIONS).filter(|number| *number == first || both) {
                let count = self.rng.between(1, 3);
                let first = self.records + 1;
                self.records += count;
                records.push((number, (first..=self.records).collect()));
            }
            self.sequence += 1;
            let name = Dedupe { id: 1, producer_epoch: None, first_sequence: self.sequence, body_hash: 7 };
            let name = self.rng.chance(0.5).then_some(name);
            sent.push(Sent { records, name });
        }
        let appends = sent.iter().map(|sent| sent.to_append(self.now)).collect();
        let replies = leader.append(Duration::from_micros(self.now), timestamp(self.now), appends);
        replies.into_iter().zip(sent).collect()
    }

    fn appends(&mut self, process: &mut Process) -> Check {
        let journalled = process.leader.is_journalled();
        let sent = self.send(&mut process.leader);
        process.waiting.extend(sent);
        let full = journalled && !process.leader.is_journalled();
        self.stats.full_journals += u64::from(full && !process.journal.journal().synced().borrow().dead);
        self.poll(process)
    }

    /// The journal's thread takes a turn, and the leader hears of it.
    fn journal_turn(&mut self, process: &mut Process) -> Check {
        process.writer.turn();
        if self.disk.get().crashed {
            // The process is gone before it can tell anybody.
            return Ok(());
        }
        let progress = *process.journal.journal().synced().borrow();
        self.stats.dead_journals += u64::from(progress.dead && !std::mem::replace(&mut process.dead, true));
        process.leader.journal_moved(Duration::from_micros(self.now), progress);
        self.note(|| format!("journal: synced below {}, dead: {}", progress.below, progress.dead));
        self.poll(process)
    }

    fn freeze(&mut self, process: &mut Process) -> Check {
        let all = self.rng.chance(0.5);
        process.leader.freeze_due(Duration::from_micros(self.now), all);
        self.act(process)
    }

    /// Does what the leader decided.
    fn act(&mut self, process: &mut Process) -> Check {
        while let Some(action) = process.leader.next_action() {
            match action {
                Action::Put { seq, parts, .. } => {
                    self.note(|| format!("sends {seq}"));
                    process.puts.insert(seq.get(), parts.concat().into());
                }
                Action::ReadBack(seq) => {
                    let object = self.store.objects.get(&Key::Wal(seq.get()));
                    let header = object.and_then(|object| object.header.clone());
                    process.leader.read_back(seq, header.as_ref());
                }
                Action::Stored(_) | Action::Wake(_) | Action::Load { .. } => {}
                other => return violation("alarm", format!("nobody else writes, and yet {other:?}")),
            }
        }
        Ok(())
    }

    /// The store answers one PUT.
    fn put(&mut self, process: &mut Process) -> Check {
        let numbers: Vec<u64> = process.puts.keys().copied().collect();
        if numbers.is_empty() {
            return Ok(());
        }
        let seq = numbers[self.rng.index(numbers.len())];
        let Some(bytes) = process.puts.remove(&seq) else { return Ok(()) };
        let lands = self.rng.chance(0.9);
        let answered = self.rng.chance(0.8);
        let mut answer = PutAnswer::Unknown;
        if lands && let store::Answer::Put(put) = self.store.apply(&Op::Create(Key::Wal(seq), bytes)).0 {
            answer = if answered { put } else { PutAnswer::Unknown };
        }
        self.note(|| format!("PUT {seq}: {answer:?}"));
        process.leader.put_answered(WalSeq::new(seq), answer);
        self.act(process)?;
        self.poll(process)
    }

    /// A consumer reads everything below the high watermarks.
    fn read(&mut self, process: &mut Process) -> Check {
        for number in 0..PARTITIONS {
            let watermark = process.leader.high_watermark(partition(number)).get();
            if watermark < process.watermarks[number] {
                return violation("I2", format!("the high watermark of {number} went back to {watermark}"));
            }
            process.watermarks[number] = watermark;
            for run in in_memory(&process.leader, number)? {
                self.observe(&run)?;
            }
        }
        Ok(())
    }

    /// Somebody learns what is at some offsets: that must never change.
    fn observe(&mut self, run: &Run) -> Check {
        for (offset, record) in (run.base..).zip(&run.records) {
            let before = self.known.insert((run.partition, offset), *record);
            if before.is_some_and(|before| before != *record) {
                let detail = format!("offset {}/{offset} was {before:?} and is {record}", run.partition);
                return violation("two records", detail);
            }
        }
        Ok(())
    }

    fn poll(&mut self, process: &mut Process) -> Check {
        let mut answered = Vec::new();
        process.waiting.retain_mut(|(reply, sent)| match reply.try_recv() {
            Ok(result) => {
                answered.push((sent.clone(), result));
                false
            }
            Err(_) => true,
        });
        for (sent, result) in answered {
            let Ok(appended) = result else { continue };
            self.stats.acked += 1;
            self.note(|| format!("acknowledges {:?}: {appended:?}", sent.records));
            for (placement, (number, records)) in appended.placements.iter().zip(&sent.records) {
                let base = placement.base_offset.get();
                self.observe(&Run { partition: *number, base, records: records.clone() })?;
            }
        }
        Ok(())
    }

    /// After a start: whatever anybody was told is in the store or in the leader's memory, once.
    fn everything_is_there(&mut self, process: &Process) -> Check {
        let mut there: BTreeMap<(usize, u64), RecordId> = BTreeMap::new();
        let mut runs: Vec<Run> = Vec::new();
        let mut seq = 0;
        while let Some(object) = self.store.objects.get(&Key::Wal(seq)) {
            runs.extend(object.runs.iter().cloned());
            seq += if object.is_epoch() { GAP } else { 1 };
        }
        for number in 0..PARTITIONS {
            runs.extend(in_memory(&process.leader, number)?);
        }
        for run in &runs {
            for (offset, record) in (run.base..).zip(&run.records) {
                let before = there.insert((run.partition, offset), *record);
                if before.is_some_and(|before| before != *record) {
                    let detail = format!("{}/{offset} holds {before:?} and {record}", run.partition);
                    return violation("two records", detail);
                }
            }
        }
        for number in (0..PARTITIONS).filter(|_| !self.flipped) {
            let next = process.leader.next_offset(partition(number)).get();
            if next >= limits::OFFSET_JUMP {
                return violation("R5", format!("{number} goes on at {next}, and nothing was damaged"));
            }
        }
        let mut places = BTreeMap::new();
        for (place, record) in &there {
            if *record == 0 || *record > self.records {
                return violation("I4", format!("{place:?} holds {record}, which nobody sent"));
            }
            let other = places.insert(*record, *place);
            if other.is_some() && !self.damaged.contains(record) {
                return violation("I3", format!("record {record} is at {other:?} and at {place:?}"));
            }
        }
        for (place, record) in &self.known {
            match there.get(place) {
                Some(found) if found == record => {}
                Some(found) => {
                    return violation("two records", format!("{place:?} was {record} and is {found}"));
                }
                None if self.damaged.contains(record) => {}
                None => return violation("I1", format!("record {record} at {place:?} is lost")),
            }
        }
        Ok(())
    }
}

/// Returns what a leader holds in memory below the high watermark.
fn in_memory(leader: &BareLeader, number: usize) -> Result<Vec<Run>, Violation> {
    let batches = leader.tail(partition(number), Offset::ZERO).unwrap_or_default();
    let mut runs = Vec::new();
    for bytes in batches {
        match try_decode_runs(number, bytes) {
            Ok(more) => runs.extend(more),
            Err(error) => return violation("I4", format!("a batch cannot be read: {error}")),
        }
    }
    Ok(runs)
}
