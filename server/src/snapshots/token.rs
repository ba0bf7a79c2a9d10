//! Where a page of a snapshot begins, as the client is given it for an offset.
//!
//! It names the end of the stream that the snapshot is of, the first record that the stream kept when it was begun, and
//! how many keys came before. Invariant: a token and the stream's records are all that a page follows from.

use everlog::types::Cursor;

/// What a read says that wants a snapshot.
const SNAPSHOT: &str = "snapshot";

/// Which page of a snapshot a read wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The first one, of the stream as it is.
    First,
    /// One that an earlier page leads to.
    Next(Token),
}

impl Wanted {
    /// Of an offset; None if it is one of the stream's own.
    #[must_use]
    pub fn parse(offset: &str) -> Option<Self> {
        if offset == SNAPSHOT { Some(Self::First) } else { Token::parse(offset).map(Self::Next) }
    }
}

/// The place of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The stream's end as the snapshot sees it.
    pub end: Cursor,
    /// The first seq that the stream kept.
    pub first: u64,
    /// How many keys come before the page.
    pub at: u64,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SNAPSHOT}.{}.{:016x}.{:016x}", self.end, self.first, self.at)
    }
}

impl Token {
    /// Of its text; None if that is no token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix(SNAPSHOT)?.strip_prefix('.')?.split('.');
        let end = parts.next()?.parse().ok()?;
        let (first, at) = (number(parts.next()?)?, number(parts.next()?)?);
        parts.next().is_none().then_some(Self { end, first, at })
    }
}

fn number(text: &str) -> Option<u64> {
    let is_ours = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then(|| u64::from_str_radix(text, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was_and_nothing_else_is_one() {
        let token = Token { end: Cursor { seq: 17, ..Cursor::default() }, first: 3, at: u64::MAX };
        let text = token.to_string();
        assert_eq!(Token::parse(&text), Some(token));
        assert!(text.len() < 256 && !text.contains([',', '&', '=', '?', '/']));
        for bad in
            ["", "snapshot", "snapshot.", "snapshot.0", &text[1..], &text[..text.len() - 1], &format!("{text}.0")]
        {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
        assert_eq!(Token::parse(&text.replace('f', "F")), None, "one place has one text");
    }
}
