//! Where a body ends: by its length, by its chunks, or with the connection.
//!
//! It looks at bytes as they pass and changes none. This module refuses to know heads and sockets.

/// The longest line between chunks, and all trailers together, in bytes.
const LINE_MAX: usize = 4096;

/// How the end of a body is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// In chunks (RFC 9112, 7.1).
    Chunked(Chunks),
    /// With the end of the connection.
    UntilEnd,
}

/// Where in a chunked body one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunks {
    at: At,
    /// Bytes of the line or of the trailers so far.
    line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In the digits of a size; whether there was one, and what it is so far.
    Size(bool, u64),
    /// In what may follow the size.
    Extension(u64),
    /// The size's line is at its line feed.
    SizeEnd(u64),
    /// In the data.
    Data(u64),
    /// Behind the data, at the carriage return.
    DataEnd,
    /// Behind the data, at the line feed.
    DataLine,
    /// At the first byte of a trailer line.
    Trailer,
    /// Within a trailer line.
    TrailerText,
    /// A trailer line is at its line feed.
    TrailerEnd,
    /// The last, empty line is at its line feed.
    LastEnd,
    /// Behind all of it.
    Over,
}

/// A body is not what its head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

impl Framing {
    pub(crate) const fn chunked() -> Self {
        Self::Chunked(Chunks { at: At::Size(false, 0), line: 0 })
    }

    /// Whether the body is complete, as far as it tells by itself.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunks { at: At::Over, .. }))
    }

    /// Lets bytes pass; gives how many of them belong to the body.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self {
            Self::UntilEnd => Ok(bytes.len()),
            Self::Length(left) => {
                let passing = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= passing as u64;
                Ok(passing)
            }
            Self::Chunked(chunks) => chunks.pass(bytes),
        }
    }
}

impl Chunks {
    fn pass(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut passed = 0;
        while let Some(rest) = bytes.get(passed..).filter(|rest| !rest.is_empty()) {
            if let At::Data(left) = self.at {
                let passing = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                passed += passing;
                let left = left - passing as u64;
                self.at = if left == 0 { At::DataEnd } else { At::Data(left) };
                continue;
            }
            if self.at == At::Over {
                break;
            }
            let Some(byte) = rest.first() else { break };
            self.step(*byte)?;
            passed += 1;
        }
        Ok(passed)
    }

    /// One byte that is not data.
    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        self.line += 1;
        if self.line > LINE_MAX {
            return Err(Malformed);
        }
        self.at = match (self.at, byte) {
            (At::Size(_, size), digit) if digit.is_ascii_hexdigit() => {
                let digit = char::from(digit).to_digit(16).ok_or(Malformed)?;
                let size = size.checked_mul(16).ok_or(Malformed)? + u64::from(digit);
                At::Size(true, size)
            }
            (At::Size(true, size) | At::Extension(size), b'\r') => At::SizeEnd(size),
            (At::Size(true, size), b';' | b' ' | b'\t') => At::Extension(size),
            (At::Extension(size), text) if !text.is_ascii_control() || text == b'\t' => {
                At::Extension(size)
            }
            (At::SizeEnd(size), b'\n') => {
                self.line = 0;
                if size == 0 { At::Trailer } else { At::Data(size) }
            }
            (At::DataEnd, b'\r') => At::DataLine,
            (At::DataLine, b'\n') => {
                self.line = 0;
                At::Size(false, 0)
            }
            (At::Trailer, b'\r') => At::LastEnd,
            (At::TrailerText, b'\r') => At::TrailerEnd,
            (At::Trailer | At::TrailerText, text) if !text.is_ascii_control() || text == b'\t' => {
                At::TrailerText
            }
            (At::TrailerEnd, b'\n') => At::Trailer,
            (At::LastEnd, b'\n') => At::Over,
            (_, _) => return Err(Malformed),
        };
        Ok(())
    }
}
