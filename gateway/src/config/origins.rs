//! Origins: which pages may call the API from a browser.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use serde::Deserialize;

use super::types::InvalidValue;
use crate::limits::CORS_ORIGINS_MAX;

/// Origins whose pages may call the API from a browser.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ListOrText")]
pub enum CorsOrigins {
    /// Every page.
    Any,
    /// The pages of these.
    List(Vec<Origin>),
}

impl Default for CorsOrigins {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

/// One origin, written as browsers write it: they compare it as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// Returns it as it stands in the header `Origin`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Origin {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let rule = |rule: &str| Err(InvalidValue::new(format!("{rule}: origin={text}")));
        let Ok(uri) = text.parse::<Uri>() else {
            return rule("must be a scheme and a host, as in https://app.example");
        };
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return rule("must be a scheme and a host, as in https://app.example");
        };
        if text.chars().any(|letter| letter.is_ascii_uppercase()) {
            return rule("must be in lower case, as browsers send it");
        }
        if authority.as_str().contains(['@', '*']) {
            return rule("must be exact: one host, no pattern and no user");
        }
        if matches!((scheme, authority.port_u16()), ("http", Some(80)) | ("https", Some(443))) {
            return rule("must leave out the scheme's own port, as browsers do");
        }
        if text != format!("{scheme}://{authority}") {
            return rule("must end with the host or port: no path, not even a slash");
        }
        Ok(Self(text.to_owned()))
    }
}

impl CorsOrigins {
    fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, InvalidValue> {
        let texts: Vec<&str> = texts.map(str::trim).filter(|text| !text.is_empty()).collect();
        match texts.as_slice() {
            ["*"] => Ok(Self::Any),
            texts if texts.contains(&"*") => {
                Err(InvalidValue::new("must be * alone or a list of origins without it"))
            }
            texts if texts.len() > CORS_ORIGINS_MAX => {
                Err(InvalidValue::new(format!("must be at most {CORS_ORIGINS_MAX} origins")))
            }
            texts => texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map(Self::List),
        }
    }
}

impl FromStr for CorsOrigins {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::of(text.split(','))
    }
}

/// A list as the file has it.
impl fmt::Display for CorsOrigins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<&str> = match self {
            Self::Any => vec!["*"],
            Self::List(origins) => origins.iter().map(Origin::as_str).collect(),
        };
        write!(f, "{texts:?}")
    }
}

/// Origins in the file: a list, or a text as on the command line.
#[derive(Deserialize)]
#[serde(untagged, expecting = "must be a list of origins such as [\"https://app.example\"]")]
enum ListOrText {
    List(Vec<String>),
    Text(String),
}

impl TryFrom<ListOrText> for CorsOrigins {
    type Error = InvalidValue;

    fn try_from(value: ListOrText) -> Result<Self, InvalidValue> {
        match value {
            ListOrText::List(texts) => Self::of(texts.iter().map(String::as_str)),
            ListOrText::Text(text) => text.parse(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_browsers_send() {
        let origins: CorsOrigins = "https://a.example, http://localhost:5173,,app://x".parse().unwrap();
        assert_eq!(origins.to_string(), r#"["https://a.example", "http://localhost:5173", "app://x"]"#);
        assert_eq!("*".parse(), Ok(CorsOrigins::Any));
        assert_eq!("".parse(), Ok(CorsOrigins::default()));
        for text in [
            "null",
            "a.example",
            "https://",
            "https://a.example/",
            "https://a.example/app",
            "https://a.example?x",
            "https://A.example",
            "https://a.example:443",
            "http://a.example:80",
            "https://*.example",
            "https://u@a.example",
            "*,https://a.example",
        ] {
            assert!(text.parse::<CorsOrigins>().is_err(), "{text}");
        }
    }
}
