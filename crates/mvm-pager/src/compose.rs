//! Which pages a page file has: what differs from the base, and what a wake will want first.
//!
//! ```text
//!  memory ─┬─ what the VMM wrote: all of it, or what changed since the guest woke
//!          └─ what the guest woke from: the rest
//!  compose() ─► which pages, in which order, from where ─► write() ─► page file
//! ```
//! What a guest will want first lies in front, so that its next wake reads it in one go; what of that is
//! as in the base is named only. It writes nothing.

use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};

use crate::{
    base::Base,
    bits::Bits,
    index::{CHUNK, CHUNK_PAGES, PAGE},
    read::PageFile,
    sparse,
};

/// A guest's memory when it is put to sleep.
#[derive(Debug, Clone, Copy)]
pub struct Memory<'a> {
    /// What the VMM wrote: a plain file whose page `n` is the guest's page `n`.
    pub plain: &'a File,
    /// How many pages the guest has.
    pub pages: u64,
    /// What most guests of the pool have in common, and what need not be written.
    pub base: Option<&'a Base>,
    /// What the guest woke from, if the VMM wrote only what changed since: then the holes of `plain`
    /// are what lies there. Without, they are zero.
    pub woke_from: Option<&'a Woken<'a>>,
}

/// What a guest woke from.
#[derive(Debug, Clone, Copy)]
pub struct Woken<'a> {
    /// Its page file; none when it was only the base.
    pub file: Option<&'a PageFile>,
}

/// Which pages a page file will have, in which order, and from where.
#[derive(Debug)]
pub struct Composition {
    pages: Vec<u32>,
    from_base: Vec<u32>,
    order: Vec<Part>,
    /// Those that come from the page file the guest woke from.
    carried: Bits,
    ahead: usize,
}

/// One chunk.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// The one of this number of the pages that are written.
    Written(usize),
    /// The one of this number of the pages of the base.
    Base(usize),
}

impl Composition {
    /// The pages that are written, in their order.
    #[must_use]
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// How many chunks at the front hold what is wanted first.
    #[must_use]
    pub const fn ahead(&self) -> usize {
        self.ahead
    }

    /// How many chunks there are.
    pub(crate) const fn chunks(&self) -> usize {
        self.order.len()
    }

    /// The pages of a chunk, and whether they lie in the base.
    pub(crate) fn chunk(&self, number: usize) -> (&[u32], bool) {
        let (list, at, is_base) = match self.order.get(number) {
            Some(Part::Written(at)) => (&self.pages, *at, false),
            Some(Part::Base(at)) => (&self.from_base, *at, true),
            None => return (&[], false),
        };
        (list.chunks(CHUNK_PAGES).nth(at).unwrap_or_default(), is_base)
    }

    /// The pages that come from the page file the guest woke from.
    pub(crate) const fn carried(&self) -> &Bits {
        &self.carried
    }

    /// Puts a page into the last chunk of its kind, or into a new one behind all others.
    fn push(&mut self, page: u32, is_base: bool) {
        let (list, part): (_, fn(usize) -> Part) = match is_base {
            true => (&mut self.from_base, Part::Base),
            false => (&mut self.pages, Part::Written),
        };
        if list.len().is_multiple_of(CHUNK_PAGES) {
            self.order.push(part(list.len() / CHUNK_PAGES));
        }
        list.push(page);
    }
}

/// What of this memory has to be written; `wanted` are the pages that a wake wants first.
///
/// # Errors
/// When one of the files cannot be read.
pub fn compose(memory: &Memory<'_>, wanted: &[u32]) -> io::Result<Composition> {
    let (changed, written) = look(memory)?;
    let older = memory.woke_from.and_then(|woken| woken.file);
    // What it names of the base is not carried: it is as in the base, or was written since.
    let older = older.into_iter().flat_map(|file| file.index().stored_pages());
    let kept: Vec<u32> = older.filter(|page| !written.get(*page)).collect();
    let mut carried = Bits::new(memory.pages);
    kept.iter().for_each(|page| carried.set(*page, true));
    let mut own = carried.clone();
    changed.iter().for_each(|page| own.set(*page, true));
    let (pages, order) = (Vec::with_capacity(changed.len() + kept.len()), Vec::new());
    let mut composed = Composition { pages, from_base: Vec::new(), order, carried, ahead: 0 };
    let mut taken = Bits::new(memory.pages);
    let named = |page: u32| memory.base.is_some_and(|base| base.has(page));
    for page in wanted {
        let is_base = !own.get(*page);
        if !taken.get(*page) && (!is_base || named(*page)) {
            taken.set(*page, true);
            composed.push(*page, is_base);
        }
    }
    composed.ahead = composed.chunks();
    let rest = changed.iter().chain(&kept).filter(|page| !taken.get(**page));
    rest.for_each(|page| composed.push(*page, false));
    // They come together, and neighbours are put in one go.
    composed.from_base.chunks_mut(CHUNK_PAGES).for_each(<[u32]>::sort_unstable);
    Ok(composed)
}

/// The pages of the plain file that are not what lies beneath them, ascending; and those that are in it
/// at all.
fn look(memory: &Memory<'_>) -> io::Result<(Vec<u32>, Bits)> {
    let Memory { plain, base, woke_from, .. } = memory;
    let (mut pages, mut written) = (Vec::new(), Bits::new(memory.pages));
    let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
    let beneath = base.filter(|_| woke_from.is_none());
    let mut end = 0;
    for run in sparse::data(plain, memory.pages)? {
        let run = run?;
        zeroed(end..run.start, beneath, &mut pages);
        end = run.end;
        for first in run.clone().step_by(CHUNK_PAGES) {
            let part = first..run.end.min(first.saturating_add(CHUNK_PAGES as u32));
            part.clone().for_each(|page| written.set(page, true));
            let own = ours.get_mut(..part.len() * PAGE).ok_or(io::ErrorKind::InvalidInput)?;
            plain.read_exact_at(own, u64::from(first) * PAGE as u64)?;
            let other = theirs.get_mut(..part.len() * PAGE).ok_or(io::ErrorKind::InvalidInput)?;
            match base {
                Some(base) => base.read(first, other)?,
                None => other.fill(0),
            }
            let pairs = own.chunks_exact(PAGE).zip(other.chunks_exact(PAGE));
            pages.extend(part.zip(pairs).filter(|(_, (a, b))| a != b).map(|(page, _)| page));
        }
    }
    let all = u32::try_from(memory.pages).map_err(|_| io::ErrorKind::InvalidInput)?;
    zeroed(end..all, beneath, &mut pages);
    Ok((pages, written))
}

/// Pages that are zero in memory and are not in the base.
fn zeroed(range: Range<u32>, base: Option<&Base>, pages: &mut Vec<u32>) {
    let Some(base) = base else { return };
    pages.extend(range.filter(|page| base.has(*page)));
}
