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

/// What is written for a client, given away part by part. A client may take its time with a part, so that each is in
/// memory of about its own size, and nothing is kept beside it.
#[derive(Debug, Default)]
struct Output {
    bytes: BytesMut,
    /// Bytes of the last part: the next one will be about as large.
    last: usize,
}

impl Output {
    fn part(&mut self) -> &mut BytesMut {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve(self.last);
        }
        &mut self.bytes
    }

    fn take(&mut self) -> Bytes {
        let part = std::mem::take(&mut self.bytes);
        self.last = part.len();
        if 2 * part.len() < part.capacity() { Bytes::copy_from_slice(&part) } else { part.freeze() }
    }
}

/// A page of JSON, or lines.
#[derive(Debug)]
pub(super) struct PageSink {
    out: Output,
    objects: Objects,
    representation: Representation,
    format: Format,
    first: bool,
}

impl PageSink {
    pub(super) fn new(positions: &[TopicPosition], representation: Representation, format: Format) -> Self {
        let mut out = Output::default();
        out.bytes.extend_from_slice(match representation {
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
        let out = &mut self.out.bytes;
        match self.representation {
            Representation::Json => {
                out.extend_from_slice(b"],\"next\":\"");
                next.write_to(out);
                out.extend_from_slice(if caught_up {
                    b"\",\"caught_up\":true}"
                } else {
                    b"\",\"caught_up\":false}"
                });
            }
            Representation::CloudEventsBatch => out.extend_from_slice(b"]"),
            Representation::Ndjson | Representation::EventStream => {}
        }
        self.out.take()
    }

    /// Takes the lines so far.
    pub(super) fn take_lines(&mut self) -> Bytes {
        self.out.take()
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
        let is_lines = self.is_lines();
        let out = self.out.part();
        let before = out.len();
        if !is_lines && !std::mem::replace(&mut self.first, false) {
            out.extend_from_slice(b",");
        }
        match self.format {
            Format::Record | Format::CloudEvents => {
                let partition = positions[topic].slots[slot].partition.get();
                self.objects.write(out, topic, partition, record);
            }
            Format::Value if is_lines => {
                out.extend_from_slice(record.value.as_deref().unwrap_or_default());
            }
            Format::Value => write_bare_value(out, record.value.as_deref()),
        }
        if is_lines {
            out.extend_from_slice(b"\n");
        }
        out.len() - before
    }
}

/// Returns the type of the CloudEvent that a record is.
fn stored_type(record: &RecordView) -> Option<Bytes> {
    record.headers.clone().find(|header| header.name == "ce_type")?.value
}

/// A chunk of Server-Sent Events.
#[derive(Debug)]
pub(super) struct EventSink {
    out: Output,
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
        let (out, id, data) = (Output::default(), BytesMut::new(), BytesMut::new());
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
            Format::Record | Format::CloudEvents => sse::record(&mut self.out.bytes, id, name, &self.data),
            Format::Value => sse::value(&mut self.out.bytes, id, name, record.value.as_deref()),
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
        let before = self.out.part().len();
        if std::mem::replace(&mut self.unended, false) {
            self.out.bytes.extend_from_slice(b"\n");
        }
        self.data.clear();
        if self.format != Format::Value {
            let partition = positions[topic].slots[slot].partition.get();
            self.objects.write(&mut self.data, topic, partition, record);
        }
        let has_id = self.write_id(positions);
        self.write_event(has_id, record);
        if !has_id {
            self.out.bytes.truncate(self.out.bytes.len() - 1);
            self.unended = true;
        }
        self.out.bytes.len() - before
    }
}

impl ChunkSink for EventSink {
    fn take(&mut self, positions: &[TopicPosition]) -> Bytes {
        if std::mem::replace(&mut self.unended, false) {
            self.out.bytes.extend_from_slice(b"id: ");
            cursor_of(positions).write_to(&mut self.out.bytes);
            self.out.bytes.extend_from_slice(b"\n\n");
        }
        if self.data.capacity() > limits::CHUNK_BYTES {
            // One large record is no reason to keep room for another.
            self.data = BytesMut::new();
        }
        self.out.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_takes_about_its_size_and_leaves_nothing_behind() {
        let mut out = Output::default();
        for size in [100_000, 5, 70_000, 1] {
            out.part().extend_from_slice(&vec![b'x'; size]);
            let part = out.take();
            assert_eq!((part.len(), out.bytes.capacity()), (size, 0));
            let capacity = part.try_into_mut().map(|part| part.capacity()).unwrap_or_default();
            assert!(capacity <= 2 * size.max(64), "{size} bytes in {capacity}");
        }
    }
}
