//! The cipher of one file: AES-256-GCM under a key that is used for this file only.
//!
//! A file is written once, so a nonce may be the chunk's number. The associated data of a piece names
//! the header it belongs to (by digest), the file, the piece's number and how many there are: a chunk
//! verifies in its own place of its own file and nowhere else. It reads and writes no file.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

/// What AES-GCM adds to a piece, in bytes.
pub const TAG: usize = 16;
/// The length of a file's key in bytes.
pub const KEY: usize = 32;
const NONCE: usize = 12;

/// Why something does not open; it never says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it was changed, or the key is not its own")]
pub struct Refused;

/// What a sealed piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// The chunk of this number.
    Chunk(u64),
    /// The index of all chunks.
    Index,
}

/// What a sealed file is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// SHA-256 of the header that describes the file.
    pub header: [u8; 32],
    /// The file's name, with zeros up to eight bytes.
    pub name: [u8; 8],
}

/// The cipher of one file.
pub struct Cipher {
    key: LessSafeKey,
    binding: Binding,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher(…)")
    }
}

impl Cipher {
    /// The cipher under this key for a file with this binding.
    ///
    /// # Errors
    /// When the cryptographic library refuses the key, which it does for none of this length.
    pub fn new(key: &[u8; KEY], binding: Binding) -> Result<Self, Refused> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| Refused)?;
        Ok(Self { key: LessSafeKey::new(key), binding })
    }

    /// Encrypts the first `length` bytes of `buffer` in place and puts the tag behind them.
    ///
    /// # Errors
    /// When the buffer has no room for the tag.
    pub fn seal(
        &self,
        piece: Piece,
        total: u64,
        buffer: &mut [u8],
        length: usize,
    ) -> Result<(), Refused> {
        let (plain, rest) = buffer.split_at_mut_checked(length).ok_or(Refused)?;
        let place = rest.get_mut(..TAG).ok_or(Refused)?;
        let aad = self.associated(piece, total);
        let tag =
            self.key.seal_in_place_separate_tag(nonce(piece), aad, plain).map_err(|_| Refused)?;
        place.copy_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts in place what is followed by its tag, and returns the plain part. On failure the
    /// bytes are worthless.
    ///
    /// # Errors
    /// When anything of it is not as it was sealed.
    pub fn open<'a>(
        &self,
        piece: Piece,
        total: u64,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Refused> {
        let aad = self.associated(piece, total);
        self.key.open_in_place(nonce(piece), aad, sealed).map_err(|_| Refused)
    }

    fn associated(&self, piece: Piece, total: u64) -> Aad<[u8; 56]> {
        let number = match piece {
            Piece::Chunk(number) => number,
            Piece::Index => total,
        };
        let mut out = [0; 56];
        let fields = [
            self.binding.header.as_slice(),
            &self.binding.name,
            &number.to_le_bytes(),
            &total.to_le_bytes(),
        ];
        for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        Aad::from(out)
    }
}

/// A kind (0 chunk, 1 index) and the number: unique under a file's key.
fn nonce(piece: Piece) -> Nonce {
    let (kind, number) = match piece {
        Piece::Chunk(number) => (0, number),
        Piece::Index => (1, 0),
    };
    let value = u128::from(number) << 32 | kind;
    let mut out = [0; NONCE];
    for (to, from) in out.iter_mut().zip(value.to_le_bytes()) {
        *to = from;
    }
    Nonce::assume_unique_for_key(out)
}
