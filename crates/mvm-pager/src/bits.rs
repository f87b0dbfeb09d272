//! One bit for each page of a guest.

use crate::index::PAGE;

/// A set of pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// An empty set of pages below `pages`.
    #[must_use]
    pub fn new(pages: u64) -> Self {
        Self(vec![0; usize::try_from(pages.div_ceil(64)).unwrap_or(0)])
    }

    /// Whether a page is in it.
    #[must_use]
    pub fn get(&self, page: u32) -> bool {
        self.0.get((page / 64) as usize).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// Puts a page in, or takes it out; one beyond the bound is left out.
    pub fn set(&mut self, page: u32, is: bool) {
        if let Some(word) = self.0.get_mut((page / 64) as usize) {
            let bit = 1 << (page % 64);
            *word = if is { *word | bit } else { *word & !bit };
        }
    }

    /// Puts in every page of which a byte of `start..end` is a part.
    pub fn set_bytes(&mut self, start: u64, end: u64) {
        let pages = start / PAGE as u64..end.div_ceil(PAGE as u64);
        pages.filter_map(|page| u32::try_from(page).ok()).for_each(|page| self.set(page, true));
    }
}
