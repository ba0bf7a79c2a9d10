//! Reading and writing little-endian numbers and varints (LEB128, at most ten bytes, shortest form only).

use super::{Decoded, Malformed};

/// Writes `value` at `at`.
pub fn put_u16(buf: &mut [u8], at: usize, value: u16) {
    buf[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// Writes `value` at `at`.
pub fn put_u32(buf: &mut [u8], at: usize, value: u32) {
    buf[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

/// Writes `value` at `at`.
pub fn put_u64(buf: &mut [u8], at: usize, value: u64) {
    buf[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// The number at `at`.
#[must_use]
pub fn get_u16(buf: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(get_array(buf, at))
}

/// The number at `at`.
#[must_use]
pub fn get_u32(buf: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get_array(buf, at))
}

/// The number at `at`.
#[must_use]
pub fn get_u64(buf: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get_array(buf, at))
}

/// The `N` bytes at `at`.
#[must_use]
pub fn get_array<const N: usize>(buf: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&buf[at..at + N]);
    out
}

/// The length of `value` as a varint, in bytes.
#[must_use]
pub const fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Where encoders write: a vector, or an aligned buffer.
pub trait Sink {
    /// Appends `bytes`.
    fn put(&mut self, bytes: &[u8]);

    /// What was appended so far.
    fn bytes(&self) -> &[u8];

    /// Appends `value` as a varint.
    fn put_varint(&mut self, mut value: u64) {
        let mut out = [0; 10];
        let mut n = 0;
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                out[n] = low;
                break;
            }
            out[n] = low | 0x80;
            n += 1;
        }
        self.put(&out[..=n]);
    }

    /// Appends a varint length, then `bytes`.
    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.put(bytes);
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A cursor over bytes that never reads past their end.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub fn new(all: &'a [u8]) -> Self {
        Self { all, at: 0 }
    }

    /// The position, in bytes from the start.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn left(&self) -> usize {
        self.all.len() - self.at
    }

    /// An error at the present position.
    #[must_use]
    pub fn malformed(&self, what: &'static str) -> Malformed {
        Malformed { what, at: self.at }
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Decoded<&'a [u8]> {
        if n > self.left() {
            return Err(self.malformed("the bytes end too early"));
        }
        let out = &self.all[self.at..self.at + n];
        self.at += n;
        Ok(out)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Decoded<u8> {
        Ok(self.take(1)?[0])
    }

    /// The next number.
    pub fn u16(&mut self) -> Decoded<u16> {
        Ok(get_u16(self.take(2)?, 0))
    }

    /// The next number.
    pub fn u32(&mut self) -> Decoded<u32> {
        Ok(get_u32(self.take(4)?, 0))
    }

    /// The next number.
    pub fn u64(&mut self) -> Decoded<u64> {
        Ok(get_u64(self.take(8)?, 0))
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        Ok(get_array(self.take(N)?, 0))
    }

    /// The next varint.
    pub fn varint(&mut self) -> Decoded<u64> {
        let start = *self;
        let mut value = 0u64;
        for n in 0..10 {
            let byte = self.u8()?;
            let low = u64::from(byte & 0x7f);
            if n == 9 && low > 1 {
                return Err(start.malformed("a varint of more than 64 bits"));
            }
            value |= low << (7 * n);
            if byte & 0x80 == 0 {
                if byte == 0 && n > 0 {
                    return Err(start.malformed("a varint that is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(start.malformed("a varint of more than ten bytes"))
    }

    /// A varint length of at most `max`, then that many bytes.
    pub fn bytes(&mut self, max: usize) -> Decoded<&'a [u8]> {
        let start = *self;
        let len = self.varint()?;
        if len > max as u64 || len > self.left() as u64 {
            return Err(start.malformed("a length beyond its bound"));
        }
        self.take(len as usize)
    }

    /// Fails unless every byte was read.
    pub fn end(&self) -> Decoded<()> {
        if self.left() == 0 { Ok(()) } else { Err(self.malformed("bytes after the end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_come_back(value: u64) {
            let mut out = Vec::new();
            out.put_varint(value);
            prop_assert_eq!(out.len(), varint_len(value));
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert!(reader.end().is_ok());
        }

        #[test]
        fn a_reader_never_panics(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            while reader.varint().is_ok() && reader.bytes(16).is_ok() {}
        }
    }

    #[test]
    fn only_the_shortest_form_is_taken() {
        assert!(Reader::new(&[0x80, 0x00]).varint().is_err());
        assert!(Reader::new(&[0xff; 10]).varint().is_err());
        assert!(Reader::new(&[0xff; 3]).varint().is_err());
        assert_eq!(Reader::new(&[0]).varint(), Ok(0));
    }
}
