//! Content codings: which one a client gets, and the coding itself.
//!
//! Invariant: an answer is coded if and only if its kind, its size and what the client accepts say so, which is known
//! before anything is coded: so an entity tag tells a page's coding without the page.

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{ACCEPT_ENCODING, HeaderMap};
use std::io::{self, Write};

/// Smaller bodies are sent as they are.
const CODED_BYTES_MIN: usize = 1 << 10;
/// The fastest level of either: the network is the bottleneck, and the processor is everybody's.
const ZSTD_LEVEL: i32 = 1;

/// How a body is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// As headers call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }

    /// The body in this coding.
    ///
    /// # Errors
    /// None but for want of memory.
    pub fn encode(self, body: &Bytes) -> io::Result<Bytes> {
        match self {
            Self::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL).map(Bytes::from),
            Self::Gzip => {
                let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
                encoder.write_all(body)?;
                encoder.finish().map(Bytes::from)
            }
        }
    }
}

/// What a client can read, the best of what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted(Option<Coding>);

impl Accepted {
    /// Of a request's headers.
    #[must_use]
    pub fn of(map: &HeaderMap) -> Self {
        Self([Coding::Zstd, Coding::Gzip].into_iter().find(|coding| accepts(map, coding.name())))
    }

    /// The coding of a body of that type and size.
    #[must_use]
    pub fn coding(self, content_type: &str, bytes: usize) -> Option<Coding> {
        self.0.filter(|_| bytes >= CODED_BYTES_MIN && is_worth_it(content_type))
    }
}

/// Photos are compressed already.
fn is_worth_it(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.starts_with("text/") || essence == "application/json" || essence.ends_with("+json")
}

/// Whether the client names the coding, and not with a weight of nothing. `*` is taken for none: who wants a coding names it.
fn accepts(asked: &HeaderMap, coding: &str) -> bool {
    let lists = asked.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(coding));
        let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        is_named && weight.is_none_or(|weight| weight.trim().parse().is_ok_and(|weight: f32| weight > 0.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use std::io::Read;

    fn chosen(accepted: &[&'static str], content_type: &str, bytes: usize) -> Option<Coding> {
        let pair = |value: &&'static str| (ACCEPT_ENCODING, HeaderValue::from_static(value));
        Accepted::of(&accepted.iter().map(pair).collect()).coding(content_type, bytes)
    }

    #[test]
    fn a_client_gets_what_it_names() {
        for (accepted, coding) in [
            (&[][..], None),
            (&["gzip, deflate, br, zstd"], Some(Coding::Zstd)),
            (&["gzip"], Some(Coding::Gzip)),
            (&["br", "GZIP;q=0.5"], Some(Coding::Gzip)),
            (&["zstd;q=0, gzip"], Some(Coding::Gzip)),
            (&["zstd; q=0.0"], None),
            (&["zstd;q=x"], None),
            (&["*"], None),
            (&["identity"], None),
        ] {
            assert_eq!(chosen(accepted, "application/json", 2000), coding, "{accepted:?}");
        }
    }

    #[test]
    fn what_is_small_or_compressed_already_stays_as_it_is() {
        assert_eq!(chosen(&["gzip"], "application/json", 1023), None);
        assert_eq!(chosen(&["gzip"], "image/jpeg", 1 << 20), None);
        assert_eq!(chosen(&["gzip"], "Text/Plain; charset=utf-8", 1024), Some(Coding::Gzip));
    }

    #[test]
    fn what_was_coded_can_be_read() {
        let body = Bytes::from("all the same ".repeat(1000));
        let coded = Coding::Zstd.encode(&body).expect("memory");
        assert_eq!(zstd::bulk::decompress(&coded, 1 << 20).expect("zstd"), body);
        let coded = Coding::Gzip.encode(&body).expect("memory");
        let mut read = Vec::new();
        flate2::read::GzDecoder::new(&*coded).read_to_end(&mut read).expect("gzip");
        assert_eq!(read, body);
    }
}
