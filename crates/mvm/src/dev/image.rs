//! What a person names as the image of a VM: a path, or what `pool create --image` takes.

use std::path::Path;

use mvm_core::{
    error::{Error, ErrorKind},
    pool::Source,
};

use crate::image::{image_at, is_path};

/// The image of who names none.
pub(super) const DEFAULT: &str = "default";

/// The source that a text names: what has a slash or a dot in it is a path, that of a directory with an
/// `Mvmfile.toml` or of an image in one file; anything else, and what begins with a scheme, is an image as pools have them.
///
/// # Errors
/// `NotFound` for a path where nothing is, `Invalid` for what is no image and names none.
pub(super) fn source(text: &str) -> Result<Source, Error> {
    if !is_path(text) {
        return valid(text);
    }
    let path = Path::new(text);
    if !path.exists() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no image {text}"))
            .hint("leave it away for the default image"));
    }
    image_at(path).map(Source::Image)
}

fn valid(text: &str) -> Result<Source, Error> {
    let source = Source::Image(text.to_owned());
    source.validate().map(|()| source)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    #[test]
    fn an_image_is_a_directory_or_what_pools_have() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().display().to_string();
        let real = place.path().canonicalize().unwrap().display().to_string();
        assert_eq!(source(&directory).unwrap_err().kind, ErrorKind::Invalid);
        std::fs::write(place.path().join("Mvmfile.toml"), "").unwrap();
        assert_eq!(source(&directory).unwrap(), Source::Image(real));
        for text in ["default", "oci:registry.example.com/team/app:1", "deb:busybox-static"] {
            assert_eq!(source(text).unwrap(), Source::Image(text.to_owned()));
        }
        let file = format!("{directory}/image.elf");
        assert_eq!(source(&file).unwrap_err().kind, ErrorKind::NotFound);
        std::fs::write(&file, "x").unwrap();
        assert_eq!(source(&file).unwrap_err().kind, ErrorKind::Invalid);
        for absent in ["path/to/image.elf", "image.elf", "./x"] {
            assert_eq!(source(absent).unwrap_err().kind, ErrorKind::NotFound, "{absent}");
        }
    }
}
