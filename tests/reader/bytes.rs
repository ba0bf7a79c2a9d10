//! Numbers from bytes, little-endian as the document has them, with the place where one is missing or wrong.
//!
//! Invariant: nothing is read past the end of what was given, and no length is believed before it was compared with
//! what is left.

use super::{Fault, Result};

/// A stretch of a file that is read from its start to its end.
pub struct Bytes<'a> {
    file: &'a str,
    /// Where the stretch begins in the file; of a stream that was put together, where its first block begins.
    base: usize,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    pub fn new(file: &'a str, base: usize, bytes: &'a [u8]) -> Self {
        Self { file, base, bytes, at: 0 }
    }

    /// Something is wrong here.
    pub fn wrong(&self, what: impl Into<String>) -> Fault {
        Fault::damaged(self.file, self.base + self.at, what)
    }

    /// How many bytes were read.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.wrong(format!("{len} bytes are missing")))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub fn rest(&mut self) -> &'a [u8] {
        let rest = &self.bytes[self.at..];
        self.at = self.bytes.len();
        rest
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("so many were taken"))
    }

    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A `u32` that counts bytes or things in memory.
    pub fn size(&mut self) -> Result<usize> {
        Ok(self.u32()? as usize)
    }

    /// LEB128 in its shortest form, at most ten bytes.
    pub fn varint(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return if byte == 0 && shift > 0 {
                    Err(self.wrong("a number is longer than it need be"))
                } else {
                    Ok(number)
                };
            }
        }
        Err(self.wrong("a number has more than 64 bits"))
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.wrong(format!("{other} where 0 or 1 belongs"))),
        }
    }

    /// Bytes with a varint in front that says how many.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8]> {
        let len = self.varint()?;
        let len = usize::try_from(len).ok().filter(|len| *len <= max);
        let len = len.ok_or_else(|| self.wrong(format!("a length past {max}")))?;
        self.take(len)
    }

    pub fn zeros(&mut self, len: usize) -> Result<()> {
        let at = self.at;
        match self.take(len)?.iter().position(|byte| *byte != 0) {
            None => Ok(()),
            Some(first) => {
                self.at = at + first;
                Err(self.wrong("a byte that must be zero is not"))
            }
        }
    }

    pub fn expect(&mut self, what: &str, expected: u64, found: u64) -> Result<()> {
        if expected == found { Ok(()) } else { Err(self.wrong(format!("{what} is {found}, not {expected}"))) }
    }

    /// Nothing is left.
    pub fn end(&self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(self.wrong("bytes that belong to nothing")) }
    }
}
