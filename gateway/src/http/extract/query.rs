//! Query strings, strictly: every parameter is known, given once, and well formed.
//!
//! A typo in `after` must not silently mean "latest", so an unknown name is refused, with the closest known one.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use forebay_log::model::Timestamp;
use percent_encoding::percent_decode;

use crate::http::extract::{After, echo, parse_time};
use crate::http::problem::{Code, Problem};

/// Parameters of one request.
const PARAMETERS_MAX: usize = 64;
/// Longest name that is compared with the known ones.
const SUGGEST_LEN_MAX: usize = 32;

/// The parameters of one request, decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Decodes a query string. A known name that ends in `*` stands for every name with that beginning, as in
    /// `header.*`. `+` stands for a space, as browsers write it.
    ///
    /// # Errors
    /// 400 `bad-parameter` for an unknown name, a repeated one, and what is not percent-encoded UTF-8.
    pub fn parse(raw: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for item in raw.unwrap_or_default().split('&').filter(|item| !item.is_empty()) {
            if pairs.len() == PARAMETERS_MAX {
                let detail = format!("too many query parameters: limit={PARAMETERS_MAX}");
                return Err(Problem::new(Code::BadParameter, detail).with("limit", PARAMETERS_MAX));
            }
            let (name, value) = item.split_once('=').unwrap_or((item, ""));
            let name = decode(name).ok_or_else(|| bad("", "query is not percent-encoded UTF-8"))?;
            let value = decode(value).ok_or_else(|| bad(&name, "value is not percent-encoded UTF-8"))?;
            if !known.iter().any(|known| matches_known(known, &name)) {
                return Err(unknown(&name, known));
            }
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(bad(&name, "parameter is given more than once"));
            }
            pairs.push((name, value));
        }
        Ok(Self { pairs })
    }

    /// Returns a value as sent.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Returns the parameters whose names begin with `prefix`, without it.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let rest =
            move |(name, value): &'a (String, String)| Some((name.strip_prefix(prefix)?, value.as_str()));
        self.pairs.iter().filter_map(rest)
    }

    /// Parses a value by its own rules.
    ///
    /// # Errors
    /// 400 `bad-parameter` with the parser's text.
    pub fn parsed<T>(&self, name: &str) -> Result<Option<T>, Problem>
    where
        T: FromStr,
        T::Err: Display,
    {
        let parse =
            |text: &str| text.parse().map_err(|error: T::Err| bad_value(name, &error.to_string(), text));
        self.text(name).map(parse).transpose()
    }

    /// Returns a whole number within a range.
    ///
    /// # Errors
    /// 400 `bad-parameter`.
    pub fn u64_in(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(value) if digits && range.contains(&value) => Ok(Some(value)),
            _ => {
                let rule = format!("must be a whole number from {} to {}", range.start(), range.end());
                Err(bad_value(name, &rule, text))
            }
        }
    }

    /// Returns a whole number.
    ///
    /// # Errors
    /// 400 `bad-parameter`.
    pub fn u64(&self, name: &str) -> Result<Option<u64>, Problem> {
        self.u64_in(name, 0..=u64::MAX)
    }

    /// Returns `true` or `false`; false where the parameter is absent.
    ///
    /// # Errors
    /// 400 `bad-parameter` for any other text.
    pub fn flag(&self, name: &str) -> Result<bool, Problem> {
        match self.text(name) {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(text) => Err(bad_value(name, "must be true or false", text)),
        }
    }

    /// Returns a duration such as `20s`, `500ms` or `0`, of at most `max`.
    ///
    /// # Errors
    /// 400 `bad-parameter`.
    pub fn duration(&self, name: &str, max: Duration) -> Result<Option<Duration>, Problem> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match humantime::parse_duration(text) {
            Ok(value) if value <= max => Ok(Some(value)),
            _ => {
                let max = humantime::format_duration(max);
                let rule = format!("must be a duration such as 20s or 500ms, at most {max}");
                Err(bad_value(name, &rule, text))
            }
        }
    }

    /// Returns an RFC 3339 time.
    ///
    /// # Errors
    /// 400 `bad-parameter`.
    pub fn time(&self, name: &str) -> Result<Option<Timestamp>, Problem> {
        let parse = |text| parse_time(text).ok_or_else(|| bad_value(name, "must be an RFC 3339 time", text));
        self.text(name).map(parse).transpose()
    }

    /// Returns where a read starts.
    ///
    /// # Errors
    /// 400 `bad-parameter` or `bad-cursor`.
    pub fn after(&self, name: &str) -> Result<Option<After>, Problem> {
        self.text(name).map(|text| After::parse(name, text)).transpose()
    }
}

/// Decodes percent-encoding; none if an escape is incomplete or the bytes are not UTF-8.
fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    let whole = spaced.split('%').skip(1).all(|rest| {
        let mut digits = rest.bytes();
        digits.next().is_some_and(|b| b.is_ascii_hexdigit())
            && digits.next().is_some_and(|b| b.is_ascii_hexdigit())
    });
    if !whole {
        return None;
    }
    percent_decode(spaced.as_bytes()).decode_utf8().ok().map(String::from)
}

fn matches_known(known: &str, name: &str) -> bool {
    match known.strip_suffix('*') {
        Some(prefix) => name.len() > prefix.len() && name.starts_with(prefix),
        None => known == name,
    }
}

fn unknown(name: &str, known: &[&str]) -> Problem {
    let closest = known
        .iter()
        .filter(|_| name.len() <= SUGGEST_LEN_MAX)
        .map(|known| (distance(name, known), *known))
        .min()
        .filter(|(distance, known)| *distance <= 1 + known.len() / 3);
    let mut detail = format!("unknown query parameter {}", echo(name));
    if let Some((_, closest)) = closest {
        detail = format!("{detail}: did you mean '{closest}'?");
    } else if !known.is_empty() {
        detail = format!("{detail}: known here are {}", known.join(", "));
    }
    let problem = Problem::new(Code::BadParameter, detail).with("parameter", name);
    match closest {
        Some((_, closest)) => problem.with("suggestion", closest),
        None => problem,
    }
}

/// Counts the insertions, deletions and replacements of letters between two short texts.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let replaced = diagonal + usize::from(!x.eq_ignore_ascii_case(&y));
            diagonal = *cell;
            left = replaced.min(*cell + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Makes the problem of a parameter.
fn bad(name: &str, what: &str) -> Problem {
    let problem = Problem::new(Code::BadParameter, format!("{what}: parameter={}", echo(name)));
    problem.with("parameter", name)
}

/// Makes the problem of a value that breaks a rule.
pub(super) fn bad_value(name: &str, rule: &str, value: &str) -> Problem {
    Problem::new(Code::BadParameter, format!("'{name}' {rule}: value={}", echo(value)))
        .with("parameter", name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: &[&str] = &["after", "limit", "wait", "follow", "key", "at", "header.*"];

    fn query(raw: &str) -> Result<Query, Problem> {
        Query::parse(Some(raw), KNOWN)
    }

    #[test]
    fn parameters_are_decoded() {
        let query = query("key=a%20b+c&header.x=1&header.y=%C3%A4&&limit=7").unwrap();
        assert_eq!(query.text("key"), Some("a b c"));
        assert_eq!(query.with_prefix("header.").collect::<Vec<_>>(), [("x", "1"), ("y", "ä")]);
        assert_eq!(query.u64("limit"), Ok(Some(7)));
        assert_eq!(query.u64("wait"), Ok(None));
        assert_eq!(Query::parse(None, KNOWN), Ok(Query::default()));
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_the_closest_known_one() {
        let problem = query("aftr=latest").unwrap_err();
        assert_eq!(problem.code, Code::BadParameter);
        assert_eq!(problem.detail, "unknown query parameter 'aftr': did you mean 'after'?");
        assert_eq!(problem.extra["suggestion"], "after");
        assert_eq!(problem.extra["parameter"], "aftr");
        assert!(query("zzzzzzzzz=1").unwrap_err().detail.contains("known here are after, limit"));
        assert!(query("header.=1").is_err(), "a header needs a name");
    }

    #[test]
    fn a_parameter_is_given_once() {
        assert!(query("limit=1&limit=1").unwrap_err().detail.contains("more than once"));
    }

    #[test]
    fn damaged_encoding_is_refused() {
        for raw in ["key=%", "key=%4", "key=%zz", "key=%FF", "%FF=1"] {
            assert_eq!(query(raw).map_err(|p| p.code), Err(Code::BadParameter), "{raw}");
        }
        let many = (0..=PARAMETERS_MAX).map(|n| format!("header.{n}=1")).collect::<Vec<_>>().join("&");
        assert!(query(&many).unwrap_err().detail.contains("too many"));
    }

    #[test]
    fn values_are_checked_by_type() {
        let query = query("limit=%2B5&wait=61s&follow=yes&at=monday&key=501").unwrap();
        assert!(query.u64("limit").is_err());
        assert_eq!(
            query.duration("wait", Duration::from_secs(60)).unwrap_err().detail,
            "'wait' must be a duration such as 20s or 500ms, at most 1m: value='61s'"
        );
        assert_eq!(query.flag("follow").unwrap_err().detail, "'follow' must be true or false: value='yes'");
        assert!(query.time("at").is_err());
        assert!(query.u64_in("key", 1..=500).is_err());
        assert_eq!(query.u64_in("key", 1..=501), Ok(Some(501)));
        assert!(query.parsed::<std::net::IpAddr>("at").is_err());
    }

    #[test]
    fn durations_have_units_except_for_zero() {
        let wait = |raw: &str| query(raw).unwrap().duration("wait", Duration::from_secs(60));
        assert_eq!(wait("wait=500ms"), Ok(Some(Duration::from_millis(500))));
        assert_eq!(wait("wait=60s"), Ok(Some(Duration::from_secs(60))));
        assert_eq!(wait("wait=0"), Ok(Some(Duration::ZERO)));
        assert!(wait("wait=20").is_err());
        assert!(wait("wait=").is_err());
        assert!(wait("wait=99999999999999999999s").is_err());
    }

    proptest! {
        #[test]
        fn no_query_panics(raw in "[a-z%=&+0-9.]{0,60}|\\PC{0,40}") {
            let _ = query(&raw);
        }
    }
}
