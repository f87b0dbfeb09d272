//! `Progress`: what long work tells while it runs.
//!
//! A value for a callback; who shows it, and how, is not known here.

/// What is being worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Packages are looked up in the signed index.
    Resolve,
    /// Bytes come in from a source.
    Fetch,
    /// Archives are opened.
    Unpack,
    /// The image is written.
    Pack,
}

/// One report of progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The kind of work.
    pub step: Step,
    /// The object, such as a file's or a package's name.
    pub name: &'a str,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all, when known.
    pub total: Option<u64>,
}

/// Takes reports; called often, so it should return soon.
pub type OnProgress<'a> = &'a dyn Fn(Progress<'_>);
