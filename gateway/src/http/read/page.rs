//! Encodes records into a page or a chunk of a stream.

use bytes::{Bytes, BytesMut};
use forebay_log::format::record_batch::RecordView;
use forebay_log::model::Header;

use crate::cursor::Cursor;
use crate::fetch::RecordSink;
use crate::fetch::position::{TopicPosition, cursor_of, update_cursor};
use crate::fetch::ring::ChunkSink;
use crate::http::extract::Representation;
use crate::http::read::args::Format;
use crate::http::wire::record_out::{RecordOut, TopicPrefix, write_bare_value, write_record};
use crate::http::wire::sse;
use crate::limits;

/// Writes one record object.
fn write(out: &mut BytesMut, topic: &TopicPrefix, partition: u16, record: &RecordView) {
    let headers: Vec<Header> = record.headers.clone().collect();
    write_record(
        out,
        topic,
        &RecordOut {
            partition,
            offset: record.offset.get(),
            timestamp: record.timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: headers.iter().map(|header| (header.name.as_ref(), header.value.as_deref())),
        },
    );
}

fn prefixes(positions: &[TopicPosition]) -> Vec<TopicPrefix> {
    positions.iter().map(|position| TopicPrefix::new(&position.name)).collect()
}

/// A page of JSON, or lines.
#[derive(Debug)]
pub(super) struct PageSink {
    out: BytesMut,
    prefixes: Vec<TopicPrefix>,
    json: bool,
    format: Format,
    first: bool,
}

impl PageSink {
    pub(super) fn new(positions: &[TopicPosition], representation: Representation, format: Format) -> Self {
        let json = representation == Representation::Json;
        let mut out = BytesMut::new();
        if json {
            out.extend_from_slice(b"{\"records\":[");
        }
        Self { out, prefixes: prefixes(positions), json, format, first: true }
    }

    /// Ends the page.
    pub(super) fn finish(mut self, next: &Cursor, caught_up: bool) -> Bytes {
        if self.json {
            self.out.extend_from_slice(b"],\"next\":\"");
            next.write_to(&mut self.out);
            self.out.extend_from_slice(if caught_up {
                b"\",\"caught_up\":true}"
            } else {
                b"\",\"caught_up\":false}"
            });
        }
        self.out.freeze()
    }

    /// Takes the lines so far.
    pub(super) fn take_lines(&mut self) -> Bytes {
        self.out.split().freeze()
    }
}

impl RecordSink for PageSink {
    fn record(
        &mut self,
        positions: &[TopicPosition],
        topic: usize,
        slot: usize,
        record: &RecordView,
    ) -> usize {
        let before = self.out.len();
        if self.json && !std::mem::replace(&mut self.first, false) {
            self.out.extend_from_slice(b",");
        }
        match self.format {
            Format::Record => {
                let partition = positions[topic].slots[slot].partition.get();
                write(&mut self.out, &self.prefixes[topic], partition, record);
            }
            Format::Value if self.json => write_bare_value(&mut self.out, record.value.as_deref()),
            Format::Value => self.out.extend_from_slice(record.value.as_deref().unwrap_or_default()),
        }
        if !self.json {
            self.out.extend_from_slice(b"\n");
        }
        self.out.len() - before
    }
}

/// A chunk of Server-Sent Events.
#[derive(Debug)]
pub(super) struct EventSink {
    out: BytesMut,
    prefixes: Vec<TopicPrefix>,
    format: Format,
    cursor: Cursor,
    id: BytesMut,
    data: BytesMut,
    /// The last event lacks its id and the blank line that ends it: its id is too long to be repeated, and is written
    /// only if no other record follows in the chunk.
    unended: bool,
}

impl EventSink {
    pub(super) fn new(positions: &[TopicPosition], format: Format) -> Self {
        let (out, id, data) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
        let cursor = cursor_of(positions);
        Self { out, prefixes: prefixes(positions), format, cursor, id, data, unended: false }
    }

    /// Writes the id of a record, unless it is too long for every record to carry it.
    fn write_id(&mut self, positions: &[TopicPosition]) -> bool {
        self.id.clear();
        let partitions: usize = positions.iter().map(|position| position.slots.len()).sum();
        if partitions > limits::SSE_ID_PARTITIONS_MAX {
            return false;
        }
        update_cursor(&mut self.cursor, positions);
        self.cursor.write_to(&mut self.id);
        self.id.len() <= limits::SSE_ID_LEN_MAX
    }

    fn write_event(&mut self, has_id: bool, value: Option<&[u8]>) {
        let id = if has_id { sse::Id::Text(&self.id) } else { sse::Id::Keep };
        match self.format {
            Format::Record => sse::record(&mut self.out, id, None, &self.data),
            Format::Value => sse::value(&mut self.out, id, value),
        }
    }
}

impl RecordSink for EventSink {
    fn record(
        &mut self,
        positions: &[TopicPosition],
        topic: usize,
        slot: usize,
        record: &RecordView,
    ) -> usize {
        let before = self.out.len();
        if std::mem::replace(&mut self.unended, false) {
            self.out.extend_from_slice(b"\n");
        }
        self.data.clear();
        if self.format == Format::Record {
            let partition = positions[topic].slots[slot].partition.get();
            write(&mut self.data, &self.prefixes[topic], partition, record);
        }
        let has_id = self.write_id(positions);
        self.write_event(has_id, record.value.as_deref());
        if !has_id {
            self.out.truncate(self.out.len() - 1);
            self.unended = true;
        }
        self.out.len() - before
    }
}

impl ChunkSink for EventSink {
    fn take(&mut self, positions: &[TopicPosition]) -> Bytes {
        if std::mem::replace(&mut self.unended, false) {
            self.out.extend_from_slice(b"id: ");
            cursor_of(positions).write_to(&mut self.out);
            self.out.extend_from_slice(b"\n\n");
        }
        self.out.split().freeze()
    }
}
