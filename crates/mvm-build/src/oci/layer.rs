//! Layers of an OCI image onto a tree, one after the other.
//!
//! A layer adds, replaces and hides (OCI image specification 1.1, "Image Layer Filesystem
//! Changeset"): `.wh.NAME` hides what lower layers have there, `.wh..wh..opq` all that they have in
//! a directory; what the same layer brings stays, in whatever order it comes. Links of the image are
//! followed inside it only. Where a layer comes from is not known here.

use std::collections::BTreeSet;
use std::io::Read;

use crate::tree::{Entry, Tree, TreeError, TreePath};
use crate::untar::{self, Found, UntarError, What};

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";

/// What of the layers is not in the tree.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeftOut {
    /// Devices and FIFOs.
    special: usize,
    /// Entries whose extended attributes were dropped.
    attributes: usize,
}

impl LeftOut {
    /// A sentence for each kind.
    pub(crate) fn notes(self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.special > 0 {
            notes.push(format!("{} devices or FIFOs of the layers were left out", self.special));
        }
        if self.attributes > 0 {
            notes.push(format!(
                "the extended attributes, such as capabilities, of {} entries were left out",
                self.attributes
            ));
        }
        notes
    }
}

/// Applies a layer, a plain tar stream.
pub(crate) fn apply(
    stream: impl Read,
    tree: &mut Tree,
    left_out: &mut LeftOut,
) -> Result<(), UntarError> {
    let mut placed: BTreeSet<TreePath> = BTreeSet::new();
    untar::each(stream, &mut |found| {
        left_out.attributes += usize::from(found.has_attributes);
        let path = found.path.as_str();
        let (directory, name) = match path.rsplit_once('/') {
            Some((directory, name)) => (Some(directory), name),
            None => (None, path),
        };
        if name == OPAQUE {
            let directory = match directory {
                Some(directory) => Some(tree.resolve(directory)?),
                None => None,
            };
            tree.clear(directory.as_ref(), &|path| placed.contains(path));
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            // Other names with this prefix are notes of a builder to itself.
            if !hidden.starts_with(WHITEOUT) {
                let hidden = TreePath::new(&format!("{}/{hidden}", directory.unwrap_or(".")))?;
                if hidden.as_str() == directory.unwrap_or_default() {
                    return Err(TreeError::Path(path.to_owned()).into());
                }
                let hidden = tree.resolve_parent(&hidden)?;
                tree.remove(&hidden, &|path| placed.contains(path));
            }
            return Ok(());
        }
        match put(tree, found)? {
            Some(place) => {
                placed.extend(place.parents());
                placed.insert(place);
            }
            None => left_out.special += 1,
        }
        Ok(())
    })
}

/// Puts an entry where its directory leads; gives the place unless images don't hold such.
fn put(tree: &mut Tree, found: Found<'_>) -> Result<Option<TreePath>, UntarError> {
    let place = tree.resolve_parent(&found.path)?;
    let node = match &found.what {
        What::Link(target) => {
            let target = tree.resolve_parent(target)?;
            match tree.get(&target) {
                Some(node) if node.entry != Entry::Directory => Some(node.clone()),
                Some(_) | None => return Err(TreeError::LinkTarget { path: place, target }.into()),
            }
        }
        What::Directory | What::Symlink(_) | What::File { .. } | What::Other => {
            found.into_node(tree)?
        }
    };
    let Some(node) = node else { return Ok(None) };
    tree.replace(place.clone(), node)?;
    Ok(Some(place))
}

#[cfg(test)]
mod tests;
