//! Paths of the caller, as the types of arguments.
//!
//! An argument that names a file of the caller has one of these types, and that is all there is to
//! carrying the file: the caller's side finds them among the parsed arguments, the far side finds
//! the file where it was put. Messages show what was typed.

use std::{
    convert::Infallible,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::image::is_path;

/// A path as it was typed, and where its file really is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallerPath {
    typed: String,
    real: PathBuf,
}

impl CallerPath {
    fn new(typed: &str) -> Self {
        let real = super::server::carried_to(typed).unwrap_or_else(|| PathBuf::from(typed));
        Self { typed: typed.to_owned(), real }
    }

    /// The words of the argument.
    #[must_use]
    pub fn typed(&self) -> &str {
        &self.typed
    }

    /// Whether it is `-`: standard input or output.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.typed == "-"
    }
}

impl AsRef<Path> for CallerPath {
    fn as_ref(&self) -> &Path {
        &self.real
    }
}

impl fmt::Display for CallerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.typed)
    }
}

macro_rules! caller_path {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(CallerPath);

        impl FromStr for $name {
            type Err = Infallible;

            fn from_str(text: &str) -> Result<Self, Infallible> {
                Ok(Self(CallerPath::new(text)))
            }
        }

        impl std::ops::Deref for $name {
            type Target = CallerPath;

            fn deref(&self) -> &CallerPath {
                &self.0
            }
        }

        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                self.0.as_ref()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

caller_path! {
    /// A file or directory of the caller that the command reads; `-` is standard input.
    InputPath
}
/// An image as a person names it. One that is a path of the caller is read, and is named by the records that
/// the command leaves: the far side keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePath(CallerPath);

impl ImagePath {
    /// The words of the argument.
    #[must_use]
    pub fn typed(&self) -> &str {
        self.0.typed()
    }

    /// Where it was carried to; none of a name, and of what is where it was typed.
    #[must_use]
    pub fn carried(&self) -> Option<&Path> {
        (self.0.real != Path::new(self.typed())).then_some(&self.0.real)
    }

    /// The image as programs here name it.
    #[must_use]
    pub fn text(&self) -> String {
        self.0.real.display().to_string()
    }
}

impl FromStr for ImagePath {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let named = || CallerPath { typed: text.to_owned(), real: PathBuf::from(text) };
        Ok(Self(if is_path(text) { CallerPath::new(text) } else { named() }))
    }
}

caller_path! {
    /// A file or directory of the caller that the command writes; `-` is standard output.
    OutputPath
}
