//! Server-Sent Events, parsed as the HTML standard says (section 9.2.6), so that what tests see is what a browser sees.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::Value;

use crate::in_time;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name; `message` when the stream gives none.
    pub name: String,
    /// The last event id at its dispatch: its own, or an earlier event's.
    pub id: String,
    /// Its data, lines joined by a line feed.
    pub data: String,
}

impl Event {
    /// Its data as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Turns bytes into events, however they are cut.
#[derive(Debug, Default)]
pub struct EventParser {
    line: Vec<u8>,
    after_cr: bool,
    started: bool,
    name: String,
    data: String,
    fields: bool,
    id: String,
    retry: Option<u64>,
    frames_without_data: usize,
    comments: usize,
}

impl EventParser {
    /// The reconnection time last sent, in milliseconds.
    pub fn retry(&self) -> Option<u64> {
        self.retry
    }

    /// Frames that had fields but no data: several real clients mishandle them, so a server should send none.
    pub fn frames_without_data(&self) -> usize {
        self.frames_without_data
    }

    /// Comment lines seen.
    pub fn comments(&self) -> usize {
        self.comments
    }

    /// Takes the next bytes of the stream and answers the events that they complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
        }
        events
    }

    fn end_line(&mut self) -> Option<Event> {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let first = !std::mem::replace(&mut self.started, true);
        let line = if first { text.strip_prefix('\u{feff}').unwrap_or(&text) } else { &text };
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        self.field(field, value.strip_prefix(' ').unwrap_or(value));
        None
    }

    fn field(&mut self, field: &str, value: &str) {
        self.fields |= !field.is_empty();
        match field {
            "" => self.comments += 1,
            "event" => value.clone_into(&mut self.name),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => self.retry = value.parse().ok(),
            _ => {}
        }
    }

    fn dispatch(&mut self) -> Option<Event> {
        let (name, mut data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
        let fields = std::mem::take(&mut self.fields);
        if data.pop().is_none() {
            self.frames_without_data += usize::from(fields);
            return None;
        }
        let name = if name.is_empty() { "message".to_owned() } else { name };
        Some(Event { name, id: self.id.clone(), data })
    }
}

/// An open event stream.
#[derive(Debug)]
pub struct EventStream {
    name: String,
    response: reqwest::Response,
    parser: EventParser,
    ready: VecDeque<Event>,
}

impl EventStream {
    pub(crate) fn new(name: String, response: reqwest::Response) -> Self {
        Self { name, response, parser: EventParser::default(), ready: VecDeque::new() }
    }

    /// A header of the answer, empty when there is none.
    pub fn header(&self, name: &str) -> &str {
        self.response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// What the parser has noted so far.
    pub fn parser(&self) -> &EventParser {
        &self.parser
    }

    /// The next event; none when the server has closed the stream or the connection is gone.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let what = format!("{}: the next event", self.name);
            let bytes: Bytes = in_time(&what, self.response.chunk()).await.ok()??;
            self.ready.extend(self.parser.feed(&bytes));
        }
    }

    /// The next event of this name; records are named `message`. Panics at the stream's end.
    pub async fn next_named(&mut self, name: &str) -> Event {
        loop {
            match self.next().await {
                Some(event) if event.name == name => return event,
                Some(_) => {}
                None => panic!("{}: the stream ended before an event {name}", self.name),
            }
        }
    }

    /// The next `count` records.
    pub async fn records(&mut self, count: usize) -> Vec<Event> {
        let mut records = Vec::with_capacity(count);
        while records.len() < count {
            records.push(self.next_named("message").await);
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = "\u{feff}: hi\r\nevent: open\r\nretry: 3000\r\nid: a\r\ndata: {}\r\n\r\ndata:x\ndata: y\r\rid: b\n\nid: c\ndata\n\n"
        .as_bytes();

    #[test]
    fn any_cut_of_the_bytes_gives_the_same_events() {
        let event = |name: &str, id: &str, data: &str| Event {
            name: name.to_owned(),
            id: id.to_owned(),
            data: data.to_owned(),
        };
        let expected = [event("open", "a", "{}"), event("message", "a", "x\ny"), event("message", "c", "")];
        for size in 1..=STREAM.len() {
            let mut parser = EventParser::default();
            let events: Vec<Event> = STREAM.chunks(size).flat_map(|chunk| parser.feed(chunk)).collect();
            assert_eq!(events, expected, "chunks of {size}");
            assert_eq!((parser.retry(), parser.frames_without_data(), parser.comments()), (Some(3000), 1, 1));
        }
    }
}
