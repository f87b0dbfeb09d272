//! Where a sparse file has data.

use std::{fs::File, io, ops::Range};

use rustix::{fs::SeekFrom, io::Errno};

use crate::index::PAGE;

/// The runs of pages of a file that are not holes, ascending.
#[derive(Debug)]
pub(crate) struct Data<'a> {
    file: &'a File,
    next: u32,
    pages: u32,
}

/// Looks at the first `pages` pages of a file.
///
/// # Errors
/// When a guest cannot have as many pages.
pub(crate) fn data(file: &File, pages: u64) -> io::Result<Data<'_>> {
    let pages = u32::try_from(pages).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(Data { file, next: 0, pages })
}

impl Data<'_> {
    fn look(&self) -> io::Result<Option<Range<u32>>> {
        let page = |at: u64| u32::try_from(at).unwrap_or(u32::MAX).min(self.pages);
        if self.next >= self.pages {
            return Ok(None);
        }
        let from = u64::from(self.next) * PAGE as u64;
        let data = match rustix::fs::seek(self.file, SeekFrom::Data(from)) {
            Err(Errno::NXIO) => return Ok(None),
            found => found?,
        };
        let hole = rustix::fs::seek(self.file, SeekFrom::Hole(data))?;
        let run = page(data / PAGE as u64)..page(hole.div_ceil(PAGE as u64));
        Ok(Some(run).filter(|run| !run.is_empty()))
    }
}

impl Iterator for Data<'_> {
    type Item = io::Result<Range<u32>>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = self.look();
        self.next = match &found {
            Ok(Some(run)) => run.end,
            Ok(None) | Err(_) => self.pages,
        };
        found.transpose()
    }
}
