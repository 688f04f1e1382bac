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
use crate::http::wire::cloudevents::out::{EventSource, write_event};
use crate::http::wire::record_out::{RecordOut, TopicPrefix, write_bare_value, write_record};
use crate::http::wire::sse;
use crate::limits;

/// Writes the objects of several topics: records, or CloudEvents.
#[derive(Debug)]
enum Objects {
    Records(Vec<TopicPrefix>),
    Events(Vec<EventSource>),
}

impl Objects {
    fn new(positions: &[TopicPosition], format: Format) -> Self {
        if format == Format::CloudEvents {
            let source = |at: &TopicPosition| EventSource::new(&at.name, &at.topic.epoch);
            return Self::Events(positions.iter().map(source).collect());
        }
        Self::Records(positions.iter().map(|position| TopicPrefix::new(&position.name)).collect())
    }

    fn write(&self, out: &mut BytesMut, topic: usize, partition: u16, record: &RecordView) {
        let headers: Vec<Header> = record.headers.clone().collect();
        let record = RecordOut {
            partition,
            offset: record.offset.get(),
            timestamp: record.timestamp,
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: headers.iter().map(|header| (header.name.as_ref(), header.value.as_deref())),
        };
        match self {
            Self::Records(prefixes) => write_record(out, &prefixes[topic], &record),
            Self::Events(sources) => write_event(out, &sources[topic], &record),
        }
    }
}

/// A page of JSON, or lines.
#[derive(Debug)]
pub(super) struct PageSink {
    out: BytesMut,
    objects: Objects,
    representation: Representation,
    format: Format,
    first: bool,
}

impl PageSink {
    pub(super) fn new(positions: &[TopicPosition], representation: Representation, format: Format) -> Self {
        let mut out = BytesMut::new();
        out.extend_from_slice(match representation {
            Representation::Json => b"{\"records\":[",
            Representation::CloudEventsBatch => b"[",
            Representation::Ndjson | Representation::EventStream => b"",
        });
        Self { out, objects: Objects::new(positions, format), representation, format, first: true }
    }

    fn is_lines(&self) -> bool {
        self.representation == Representation::Ndjson
    }

    /// Ends the page.
    pub(super) fn finish(mut self, next: &Cursor, caught_up: bool) -> Bytes {
        match self.representation {
            Representation::Json => {
                self.out.extend_from_slice(b"],\"next\":\"");
                next.write_to(&mut self.out);
                self.out.extend_from_slice(if caught_up {
                    b"\",\"caught_up\":true}"
                } else {
                    b"\",\"caught_up\":false}"
                });
            }
            Representation::CloudEventsBatch => self.out.extend_from_slice(b"]"),
            Representation::Ndjson | Representation::EventStream => {}
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
        let is_lines = self.is_lines();
        if !is_lines && !std::mem::replace(&mut self.first, false) {
            self.out.extend_from_slice(b",");
        }
        match self.format {
            Format::Record | Format::CloudEvents => {
                let partition = positions[topic].slots[slot].partition.get();
                self.objects.write(&mut self.out, topic, partition, record);
            }
            Format::Value if is_lines => {
                self.out.extend_from_slice(record.value.as_deref().unwrap_or_default());
            }
            Format::Value => write_bare_value(&mut self.out, record.value.as_deref()),
        }
        if is_lines {
            self.out.extend_from_slice(b"\n");
        }
        self.out.len() - before
    }
}

/// Returns the type of the CloudEvent that a record is.
fn stored_type(record: &RecordView) -> Option<Bytes> {
    record.headers.clone().find(|header| header.name == "ce_type")?.value
}

/// A chunk of Server-Sent Events.
#[derive(Debug)]
pub(super) struct EventSink {
    out: BytesMut,
    objects: Objects,
    format: Format,
    /// Whether frames are named after the type of the CloudEvent in them.
    named: bool,
    cursor: Cursor,
    id: BytesMut,
    data: BytesMut,
    /// The last event lacks its id and the blank line that ends it: its id is too long to be repeated, and is written
    /// only if no other record follows in the chunk.
    unended: bool,
}

impl EventSink {
    pub(super) fn new(positions: &[TopicPosition], format: Format, named: bool) -> Self {
        let (out, id, data) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
        let (cursor, objects) = (cursor_of(positions), Objects::new(positions, format));
        Self { out, objects, format, named, cursor, id, data, unended: false }
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

    fn write_event(&mut self, has_id: bool, record: &RecordView) {
        let id = if has_id { sse::Id::Text(&self.id) } else { sse::Id::Keep };
        let event_type = if self.named { stored_type(record) } else { None };
        let name = event_type.as_deref().and_then(|name| std::str::from_utf8(name).ok());
        match self.format {
            Format::Record | Format::CloudEvents => sse::record(&mut self.out, id, name, &self.data),
            Format::Value => sse::value(&mut self.out, id, name, record.value.as_deref()),
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
        if self.format != Format::Value {
            let partition = positions[topic].slots[slot].partition.get();
            self.objects.write(&mut self.data, topic, partition, record);
        }
        let has_id = self.write_id(positions);
        self.write_event(has_id, record);
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
