//! Where a read starts: the parameter `after`, and points in time.

use forebay_log::model::Timestamp;

use crate::cursor::Cursor;
use crate::http::extract::echo;
use crate::http::extract::query::bad_value;
use crate::http::problem::{Code, Problem};

/// Where a read starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum After {
    /// After what an earlier answer ended with.
    Cursor(Cursor),
    /// At the log start of every partition.
    Earliest,
    /// At the high watermark of every partition.
    Latest,
    /// This many offsets before the high watermark of every partition.
    Back(u64),
    /// At the first record of every partition that is not older.
    Time(Timestamp),
}

impl After {
    /// Parses a cursor, `earliest`, `latest`, `-N`, or an RFC 3339 time.
    ///
    /// # Errors
    /// 400 `bad-parameter` for a malformed count or time, `bad-cursor` for everything else.
    pub fn parse(name: &str, text: &str) -> Result<Self, Problem> {
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Some(count) = text.strip_prefix('-') {
            let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
            let count = count.parse().ok().filter(|_| digits);
            return count
                .map(Self::Back)
                .ok_or_else(|| bad_value(name, "must be -N with a whole number N", text));
        }
        if looks_like_time(text) {
            let time = parse_time(text).ok_or_else(|| bad_value(name, "must be an RFC 3339 time", text))?;
            return Ok(Self::Time(time));
        }
        text.parse().map(Self::Cursor).map_err(|error| {
            let rule = "must be a cursor, earliest, latest, -N or an RFC 3339 time";
            let detail = format!("'{name}' {rule}: {error}: value={}", echo(text));
            Problem::new(Code::BadCursor, detail).with("parameter", name)
        })
    }
}

/// Tells a time from a cursor, whose epoch never holds a `-`.
fn looks_like_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() > 4 && bytes.iter().take(4).all(u8::is_ascii_digit) && bytes.get(4) == Some(&b'-')
}

/// Parses an RFC 3339 time, rounded down to milliseconds. A space stands for the `+` of an offset, which query
/// strings turn into one.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let restored = text.rsplit_once(' ').filter(|(head, _)| head.contains(['T', 't']));
    let restored = restored.map(|(head, offset)| format!("{head}+{offset}"));
    let time: jiff::Timestamp = restored.as_deref().unwrap_or(text).parse().ok()?;
    let millis = time.as_nanosecond().div_euclid(1_000_000);
    i64::try_from(millis).ok().map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_told_from_the_others() {
        let parse = |text| After::parse("after", text);
        assert_eq!(parse("earliest"), Ok(After::Earliest));
        assert_eq!(parse("latest"), Ok(After::Latest));
        assert_eq!(parse("-100"), Ok(After::Back(100)));
        assert_eq!(parse("1970-01-01T00:00:01.5Z"), Ok(After::Time(Timestamp::from_millis(1500))));
        assert_eq!(parse("k7.0-17"), Ok(After::Cursor("k7.0-17".parse().unwrap())));
        assert_eq!(parse("2024.0-17"), Ok(After::Cursor("2024.0-17".parse().unwrap())));
    }

    #[test]
    fn a_mistake_is_named() {
        let code = |text| After::parse("after", text).map_err(|p| p.code);
        assert_eq!(code("-"), Err(Code::BadParameter));
        assert_eq!(code("--1"), Err(Code::BadParameter));
        assert_eq!(code("-99999999999999999999"), Err(Code::BadParameter));
        assert_eq!(code("2024-13-01T00:00:00Z"), Err(Code::BadParameter));
        assert_eq!(code("2024-01-01"), Err(Code::BadParameter));
        assert_eq!(code("lastest"), Err(Code::BadCursor));
        assert_eq!(code(""), Err(Code::BadCursor));
        assert_eq!(code("k7.0-x"), Err(Code::BadCursor));
    }

    #[test]
    fn times_with_offsets_survive_the_query_string() {
        let time = parse_time("2024-06-01T12:00:00+02:00");
        assert_eq!(time, parse_time("2024-06-01T10:00:00Z"));
        assert_eq!(time, parse_time("2024-06-01T12:00:00 02:00"));
        assert_eq!(parse_time("1969-12-31T23:59:59.9995Z"), Some(Timestamp::from_millis(-1)));
        assert_eq!(parse_time("12:00"), None);
        assert_eq!(parse_time("2024-06-01T12:00:00"), None, "without an offset it is no point in time");
    }
}
