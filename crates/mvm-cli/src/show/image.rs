//! What `mvm build` and `mvm image …` show.

use mvm::ImageHash;
use serde::Serialize;

use super::size;

/// An image that is in the store, and where it was written to.
#[derive(Debug, Serialize)]
pub(crate) struct ImageMade {
    pub(crate) image: ImageHash,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<ImageFile>,
}

/// A file with an image.
#[derive(Debug, Serialize)]
pub(crate) struct ImageFile {
    pub(crate) path: String,
    pub(crate) sha256: String,
    pub(crate) size: u64,
}

impl ImageMade {
    pub(crate) fn text(&self) -> String {
        let image = self.image.to_string();
        let mut lines = vec![format!("The image {image} is in the image store.")];
        lines.extend(self.file.as_ref().map(|file| {
            format!("{} has it: {}, SHA-256 {}.", file.path, size(file.size), file.sha256)
        }));
        lines.join("\n")
    }
}
