//! Which page lies in which chunk of a page file: the index, its bytes, and what is refused.
//!
//! ```text
//!  chunk │ chunk │ …            one behind the other, without gaps, each with its tag if sealed;
//!                               those whose pages lie in the base take no room
//!  index                        one entry a chunk, sealed as a whole
//!  trailer                      chunks u64, bytes of the index u64 (with its tag)
//! ```
//! An entry is codec u8, pages u8, bytes stored u32, offset u64, then the numbers of its pages, u32
//! each; all little-endian. Pure: it reads no file and knows no cipher.

use thiserror::Error;

/// Bytes of a page.
pub const PAGE: usize = 4096;
/// The most pages of one chunk: 64 KiB, the smallest that SPEC §8 allows, because a fault opens a
/// whole chunk.
pub const CHUNK_PAGES: usize = 16;
/// The most plain bytes of one chunk.
pub const CHUNK: usize = PAGE * CHUNK_PAGES;
/// Bytes of an entry without its pages.
const ENTRY: usize = 14;
/// Bytes of the trailer.
pub const TRAILER: usize = 16;

/// How a chunk is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// As it is.
    None,
    /// LZ4 block.
    Lz4,
    /// Zstandard frame.
    Zstd,
}

impl Codec {
    const fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// The number of chunks whose pages lie in the base, where others have their codec.
const FROM_BASE: u8 = 3;

/// One chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// How many pages it has, 1 to [`CHUNK_PAGES`].
    pub count: u8,
    /// Where they are.
    pub content: Content,
}

/// Where the pages of a chunk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// In the page file.
    Stored(Stored),
    /// In the base: the chunk says only that they are wanted together.
    Base,
}

/// The part of a page file that is a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// How it is stored.
    pub codec: Codec,
    /// How many bytes, without a tag.
    pub bytes: u32,
    /// Where it starts in the file.
    pub offset: u64,
}

impl Chunk {
    /// What of the file it is.
    #[must_use]
    pub const fn stored(&self) -> Option<Stored> {
        match self.content {
            Content::Stored(stored) => Some(stored),
            Content::Base => None,
        }
    }

    /// Whether its pages lie in the base.
    #[must_use]
    pub const fn is_base(&self) -> bool {
        self.stored().is_none()
    }

    /// Whether it can be.
    fn fits(&self) -> bool {
        let count = usize::from(self.count);
        let plain = count * PAGE;
        let fits = match self.content {
            Content::Base => true,
            Content::Stored(Stored { codec, bytes, .. }) => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                match codec {
                    Codec::None => bytes == plain,
                    // What does not shrink is stored as it is.
                    Codec::Lz4 | Codec::Zstd => bytes > 0 && bytes < plain,
                }
            }
        };
        count > 0 && count <= CHUNK_PAGES && fits
    }

    fn encode(&self) -> [u8; ENTRY] {
        let (number, bytes, offset) = match self.content {
            Content::Stored(Stored { codec, bytes, offset }) => (codec.number(), bytes, offset),
            Content::Base => (FROM_BASE, 0, 0),
        };
        let mut out = [0; ENTRY];
        let fields = [&[number, self.count][..], &bytes.to_le_bytes(), &offset.to_le_bytes()];
        for (to, from) in out.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        out
    }

    fn decode(&[number, count, a, b, c, d, ref offset @ ..]: &[u8; ENTRY]) -> Option<Self> {
        let (bytes, offset) = (u32::from_le_bytes([a, b, c, d]), u64::from_le_bytes(*offset));
        let content = match (number, bytes, offset) {
            (FROM_BASE, 0, 0) => Content::Base,
            _ => Content::Stored(Stored { codec: Codec::of(number)?, bytes, offset }),
        };
        Some(Self { count, content })
    }
}

/// Why an index is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Damaged {
    /// It ends in the middle of an entry, or goes on behind the last.
    #[error("the index has a strange length")]
    Length,
    /// A chunk that cannot be.
    #[error("the index describes an impossible chunk {0}")]
    Chunk(usize),
    /// The chunks leave gaps or overlap.
    #[error("the chunks do not lie one behind the other")]
    Layout,
    /// A page beyond the guest's memory, or twice.
    #[error("the index names page {0}, which cannot be")]
    Page(u32),
}

/// The index of a page file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    chunks: Vec<Chunk>,
    /// The pages of all chunks, chunk by chunk.
    pages: Vec<u32>,
    /// Where each chunk's pages start in `pages`.
    starts: Vec<u32>,
    /// Every page and its chunk, by page.
    places: Vec<(u32, u32)>,
}

impl Index {
    /// An index of these chunks; `pages` are those of all chunks, chunk by chunk.
    ///
    /// # Errors
    /// As [`Index::decode`], but for the length.
    pub fn new(
        chunks: Vec<Chunk>,
        pages: Vec<u32>,
        memory_pages: u64,
        tag: usize,
        end: u64,
    ) -> Result<Self, Damaged> {
        let mut starts = Vec::with_capacity(chunks.len());
        let mut places = Vec::with_capacity(pages.len());
        let mut start = 0usize;
        for (number, chunk) in chunks.iter().enumerate() {
            let count = usize::from(chunk.count);
            if !chunk.fits() {
                return Err(Damaged::Chunk(number));
            }
            let own = pages.get(start..start + count).ok_or(Damaged::Chunk(number))?;
            let number = u32::try_from(number).map_err(|_| Damaged::Chunk(number))?;
            starts.push(u32::try_from(start).map_err(|_| Damaged::Length)?);
            places.extend(own.iter().map(|page| (*page, number)));
            start += count;
        }
        if start != pages.len() {
            return Err(Damaged::Length);
        }
        lie_in_a_row(&chunks, tag, end)?;
        places.sort_unstable();
        let twice = places.windows(2).find(|pair| matches!(pair, [a, b] if a.0 == b.0));
        if let Some([page, ..]) = twice {
            return Err(Damaged::Page(page.0));
        }
        match places.last() {
            Some((page, _)) if u64::from(*page) >= memory_pages => Err(Damaged::Page(*page)),
            Some(_) | None => Ok(Self { chunks, pages, starts, places }),
        }
    }

    /// The bytes of the index.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.chunks.len() * ENTRY + self.pages.len() * 4);
        for (number, chunk) in self.chunks.iter().enumerate() {
            out.extend_from_slice(&chunk.encode());
            for page in self.pages_of(number) {
                out.extend_from_slice(&page.to_le_bytes());
            }
        }
        out
    }

    /// Reads an index of exactly `total` chunks that fill the file up to `end`, of a guest with
    /// `memory_pages`; `tag` is what sealing adds to a chunk.
    ///
    /// # Errors
    /// What is wrong with it. Nothing larger than the bytes themselves is allocated before they are
    /// known to make sense.
    pub fn decode(
        bytes: &[u8],
        total: u64,
        memory_pages: u64,
        tag: usize,
        end: u64,
    ) -> Result<Self, Damaged> {
        let mut rest = bytes;
        let (mut chunks, mut pages) = (Vec::new(), Vec::new());
        while !rest.is_empty() {
            let number = chunks.len();
            let (entry, after) = rest.split_first_chunk().ok_or(Damaged::Length)?;
            let chunk = Chunk::decode(entry).ok_or(Damaged::Chunk(number))?;
            let (own, after) =
                after.split_at_checked(usize::from(chunk.count) * 4).ok_or(Damaged::Length)?;
            let (numbers, _) = own.as_chunks::<4>();
            pages.extend(numbers.iter().map(|number| u32::from_le_bytes(*number)));
            chunks.push(chunk);
            rest = after;
        }
        if chunks.len() as u64 != total {
            return Err(Damaged::Length);
        }
        Self::new(chunks, pages, memory_pages, tag, end)
    }

    /// All chunks.
    #[must_use]
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The pages of a chunk, in the order in which they lie there; none of a chunk that is not.
    #[must_use]
    pub fn pages_of(&self, chunk: usize) -> &[u32] {
        let start = self.starts.get(chunk).map_or(0, |start| *start as usize);
        let count = self.chunks.get(chunk).map_or(0, |chunk| usize::from(chunk.count));
        self.pages.get(start..start + count).unwrap_or_default()
    }

    /// The chunk that has a page.
    #[must_use]
    pub fn find(&self, page: u32) -> Option<usize> {
        let at = self.places.binary_search_by_key(&page, |(page, _)| *page).ok()?;
        self.places.get(at).map(|(_, chunk)| *chunk as usize)
    }

    /// All pages, chunk by chunk.
    #[must_use]
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// The pages that lie in the file, chunk by chunk.
    pub fn stored_pages(&self) -> impl Iterator<Item = u32> + '_ {
        let stored = |(_, chunk): &(usize, &Chunk)| !chunk.is_base();
        let chunks = self.chunks.iter().enumerate().filter(stored);
        chunks.flat_map(|(number, _)| self.pages_of(number)).copied()
    }

    /// Whether some of the pages lie in the base.
    #[must_use]
    pub fn needs_base(&self) -> bool {
        self.chunks.iter().any(Chunk::is_base)
    }
}

fn lie_in_a_row(chunks: &[Chunk], tag: usize, end: u64) -> Result<(), Damaged> {
    let mut order: Vec<Stored> = chunks.iter().filter_map(Chunk::stored).collect();
    order.sort_unstable_by_key(|stored| stored.offset);
    let mut next = 0u64;
    for stored in order {
        if stored.offset != next {
            return Err(Damaged::Layout);
        }
        next += u64::from(stored.bytes) + tag as u64;
    }
    if next == end { Ok(()) } else { Err(Damaged::Layout) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An index of these pages, of which every third chunk lies in the base.
    fn index(pages: &[u32]) -> Index {
        let mut offset = 0;
        let chunks: Vec<Chunk> = (0..)
            .zip(pages.chunks(CHUNK_PAGES))
            .map(|(number, own)| {
                let bytes = (own.len() * PAGE) as u32;
                let content = if number % 3 == 1 {
                    Content::Base
                } else {
                    offset += u64::from(bytes);
                    let offset = offset - u64::from(bytes);
                    Content::Stored(Stored { codec: Codec::None, bytes, offset })
                };
                Chunk { count: own.len() as u8, content }
            })
            .collect();
        Index::new(chunks, pages.to_vec(), 1 << 20, 0, offset).unwrap()
    }

    fn end(index: &Index) -> u64 {
        index.stored_pages().count() as u64 * PAGE as u64
    }

    proptest! {
        #[test]
        fn every_page_is_found_in_the_chunk_that_holds_it(
            pages in proptest::collection::btree_set(0u32..1 << 20, 0..200),
            other in 0u32..1 << 20,
        ) {
            let mut order: Vec<u32> = pages.iter().copied().collect();
            order.reverse();
            let index = index(&order);
            for page in &order {
                prop_assert!(index.pages_of(index.find(*page).unwrap()).contains(page));
            }
            prop_assert_eq!(index.find(other).is_some(), pages.contains(&other));
            let bytes = index.encode();
            let total = index.chunks().len() as u64;
            prop_assert_eq!(Index::decode(&bytes, total, 1 << 20, 0, end(&index)).unwrap(), index);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..600), total in 0u64..9,
        ) {
            let _ = Index::decode(&bytes, total, 1 << 20, 16, 1 << 20);
        }

        #[test]
        fn a_changed_byte_never_moves_a_page_out_of_memory_or_makes_it_twice(
            at in 0usize..200, to in any::<u8>(),
        ) {
            let index = index(&(0..40).collect::<Vec<_>>());
            let mut bytes = index.encode();
            let place = at % bytes.len();
            *bytes.get_mut(place).unwrap() = to;
            if let Ok(read) = Index::decode(&bytes, 3, 100, 0, end(&index)) {
                let mut pages = read.pages().to_vec();
                prop_assert!(pages.iter().all(|page| *page < 100));
                pages.sort_unstable();
                pages.dedup();
                prop_assert_eq!(pages.len(), read.pages().len());
            }
        }
    }

    #[test]
    fn a_chunk_of_the_base_takes_no_room_and_its_pages_are_in_no_other() {
        let index = index(&(0..40).collect::<Vec<_>>());
        assert!(index.needs_base());
        assert_eq!(
            index.stored_pages().collect::<Vec<_>>(),
            [0..16, 32..40].map(Vec::from_iter).concat()
        );
        let bytes = index.encode();
        // Behind the first entry: the second's number, bytes and offset, and its first page.
        let second = ENTRY + CHUNK_PAGES * 4;
        for (at, wrong) in [
            (second, Damaged::Chunk(1)),
            (second + 1, Damaged::Chunk(1)),
            (second + 2, Damaged::Chunk(1)),
            (second + 6, Damaged::Chunk(1)),
            (second + ENTRY, Damaged::Page(2)),
        ] {
            let mut changed = bytes.clone();
            *changed.get_mut(at).unwrap() = if at == second + ENTRY { 2 } else { 17 };
            let read = Index::decode(&changed, 3, 100, 0, end(&index));
            assert!(read == Err(wrong) || at == second + 1 && read.is_err(), "{at}: {read:?}");
        }
    }

    #[test]
    fn gaps_overlaps_and_a_wrong_end_are_refused() {
        let good = index(&(0..40).collect::<Vec<_>>());
        let bytes = good.encode();
        assert_eq!(Index::decode(&bytes, 3, 100, 0, end(&good) + 1), Err(Damaged::Layout));
        assert_eq!(Index::decode(&bytes, 2, 100, 0, end(&good)), Err(Damaged::Length));
        assert_eq!(Index::decode(&bytes, 3, 39, 0, end(&good)), Err(Damaged::Page(39)));
    }
}
