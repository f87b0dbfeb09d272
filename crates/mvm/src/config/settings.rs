//! Choosing a setting's value, and remembering where it came from.
//!
//! Flags come before the environment, that before the file, that before the default. It refuses to
//! know what a setting means.

use std::path::PathBuf;

use mvm_core::{error::Error, id::VmmVersion};
use serde::Serialize;

use super::LogFormat;
use crate::provider::HostChoice;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A flag of the command line.
    Flag,
    /// An environment variable.
    Environment,
    /// `config.toml`.
    File,
    /// Nobody set it.
    Default,
}

/// A setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its key in `config.toml`.
    pub name: &'static str,
    /// Its value; none when it is not set and has no default.
    pub value: Option<String>,
    /// Where the value comes from.
    pub origin: Origin,
    /// The environment variable that sets it, if one does.
    pub variable: Option<&'static str>,
}

/// The settings chosen so far.
pub(super) struct Settings<'a> {
    pub(super) list: Vec<Setting>,
    environment: &'a dyn Fn(&str) -> Result<Option<String>, Error>,
}

/// One setting whose value is being chosen: the first that is offered holds.
pub(super) struct Choice<'s, 'a, T> {
    settings: &'s mut Settings<'a>,
    name: &'static str,
    variable: Option<&'static str>,
    chosen: Option<(T, Origin)>,
}

impl<'a> Settings<'a> {
    pub(super) fn new(environment: &'a dyn Fn(&str) -> Result<Option<String>, Error>) -> Self {
        Self { list: Vec::new(), environment }
    }

    pub(super) fn named<T: Shown>(&mut self, name: &'static str) -> Choice<'_, 'a, T> {
        Choice { settings: self, name, variable: None, chosen: None }
    }
}

impl<T: Shown> Choice<'_, '_, T> {
    pub(super) fn flag(self, value: Option<T>) -> Self {
        self.offer(value, Origin::Flag)
    }

    pub(super) fn file(self, value: Option<T>) -> Self {
        self.offer(value, Origin::File)
    }

    pub(super) fn variable(
        mut self,
        name: &'static str,
        read: impl FnOnce(String) -> Result<T, Error>,
    ) -> Result<Self, Error> {
        self.variable = Some(name);
        let value = (self.settings.environment)(name)?.map(read).transpose()?;
        Ok(self.offer(value, Origin::Environment))
    }

    pub(super) fn or(self, default: T) -> T {
        let (value, origin) = self.chosen.unwrap_or((default, Origin::Default));
        let (name, variable) = (self.name, self.variable);
        let shown = Some(value.shown());
        self.settings.list.push(Setting { name, value: shown, origin, variable });
        value
    }

    pub(super) fn or_none(self) -> Option<T> {
        let origin = self.chosen.as_ref().map_or(Origin::Default, |(_, origin)| *origin);
        let value = self.chosen.map(|(value, _)| value);
        let (name, variable) = (self.name, self.variable);
        let shown = value.as_ref().map(Shown::shown);
        self.settings.list.push(Setting { name, value: shown, origin, variable });
        value
    }

    fn offer(mut self, value: Option<T>, origin: Origin) -> Self {
        self.chosen = self.chosen.or_else(|| value.map(|value| (value, origin)));
        self
    }
}

/// A value that people can read.
pub(super) trait Shown {
    fn shown(&self) -> String;
}

impl Shown for PathBuf {
    fn shown(&self) -> String {
        self.display().to_string()
    }
}

impl Shown for String {
    fn shown(&self) -> String {
        self.clone()
    }
}

impl Shown for Vec<String> {
    fn shown(&self) -> String {
        self.join(", ")
    }
}

impl Shown for VmmVersion {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for bool {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for HostChoice {
    fn shown(&self) -> String {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Qemu => "qemu",
            Self::Lima => "lima",
        }
        .to_owned()
    }
}

impl Shown for u8 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for u16 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for u32 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for u64 {
    fn shown(&self) -> String {
        self.to_string()
    }
}

impl Shown for LogFormat {
    fn shown(&self) -> String {
        match self {
            Self::Human => "human".to_owned(),
            Self::Json => "json".to_owned(),
        }
    }
}
