//! `mvm image …`.

use std::process::ExitCode;

use mvm::{Error, ErrorKind, forward::OutputPath};

use super::would;
use crate::{
    args::ImageCommand,
    run::Session,
    show::{self, ImageMade},
};

pub(crate) fn run(session: &Session, command: &ImageCommand) -> Result<ExitCode, Error> {
    match command {
        ImageCommand::Export { image, output } => {
            file(output)?;
            if session.is_rehearsal() {
                let found = session.mvm.image_find(image)?;
                return would(session, "export", into(found.as_str(), output));
            }
            export(session, image, output)
        }
        ImageCommand::Import { file } => {
            if !AsRef::<std::path::Path>::as_ref(file).is_file() {
                let message = format!("there is no file {}", file.typed());
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            if session.is_rehearsal() {
                return would(session, "import", file.typed().to_owned());
            }
            session.stop_on_signals();
            let image = session.mvm.image_import(&session.cx, file.as_ref())?;
            said(session, &ImageMade { image, file: None })
        }
    }
}

pub(super) fn export(
    session: &Session,
    image: &str,
    output: &OutputPath,
) -> Result<ExitCode, Error> {
    let written = session.mvm.image_export(image, output.as_ref())?;
    let file = show::ImageFile {
        path: output.typed().to_owned(),
        sha256: written.sha256,
        size: written.size,
    };
    said(session, &ImageMade { image: written.image, file: Some(file) })
}

/// Refuses standard output, since an image is put in place as a whole.
pub(super) fn file(output: &OutputPath) -> Result<(), Error> {
    if output.is_stream() {
        return Err(Error::new(ErrorKind::Usage, "an image is written into a file")
            .hint("name a file: --output image.elf"));
    }
    Ok(())
}

pub(super) fn into(what: &str, output: &OutputPath) -> String {
    format!("{what} into {}", output.typed())
}

pub(super) fn said(session: &Session, made: &ImageMade) -> Result<ExitCode, Error> {
    session.tell(made, ImageMade::text)?;
    Ok(ExitCode::SUCCESS)
}
