//! Content codings: whether a client takes a compressed answer.

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

use crate::http::extract::accept::weighted;

/// A coding that the node can apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Coding {
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// Returns its name in headers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

/// Chooses the coding of an answer: the highest weight, then zstd, the faster one. None where the client does not ask, or
/// would rather have the answer as it is.
pub fn content_coding(headers: &HeaderMap) -> Option<Coding> {
    let asked = weighted(headers, ACCEPT_ENCODING);
    let weight =
        |name: &str| asked.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|found| found.1);
    let any = weight("*");
    let of = |coding: Coding| weight(coding.name()).or(any).unwrap_or(0);
    let plain = weight("identity").unwrap_or(1);
    let (zstd, gzip) = (of(Coding::Zstd), of(Coding::Gzip));
    let (coding, best) = if gzip > zstd { (Coding::Gzip, gzip) } else { (Coding::Zstd, zstd) };
    (best > 0 && best >= plain).then_some(coding)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_coding_is_what_the_client_likes_best() {
        let choose = |accepted: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_str(accepted).unwrap());
            content_coding(&headers)
        };
        assert_eq!(content_coding(&HeaderMap::new()), None);
        assert_eq!(choose(""), None);
        assert_eq!(choose("identity"), None);
        assert_eq!(choose("deflate, br"), None);
        assert_eq!(choose("gzip"), Some(Coding::Gzip));
        assert_eq!(choose("gzip, deflate, br, zstd"), Some(Coding::Zstd), "browsers");
        assert_eq!(choose("zstd;q=0.5, GZIP"), Some(Coding::Gzip));
        assert_eq!(choose("gzip;q=0"), None);
        assert_eq!(choose("*"), Some(Coding::Zstd));
        assert_eq!(choose("*, zstd;q=0"), Some(Coding::Gzip));
        assert_eq!(choose("gzip;q=0.5, identity"), None);
    }
}
