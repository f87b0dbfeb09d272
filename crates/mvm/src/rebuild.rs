//! `mvm node rebuild`: a new store in place of a lost one.

use mvm_core::{
    error::{Error, ErrorKind},
    event::Actor,
    id::OperationId,
    layout::data,
};
use mvm_engine::{
    Config as Settings,
    rebuild::{self, Rebuilt},
    store::{
        recover::{self, Health},
        sqlite::SqliteStore,
    },
};
use mvm_host::{clock::SystemClock, local::LocalHost};

use crate::{Mvm, config::Config, wiring};

/// Whether a store that is whole is given up as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RebuildWhen {
    /// Only a lost or damaged one.
    Lost,
    /// Also a healthy one.
    Always,
}

impl Mvm {
    /// Makes a new store from the exported files and what this machine shows; the old one is kept beside
    /// it. With `dry_run` only tells what it would hold. Nothing else may work on the store meanwhile.
    ///
    /// # Errors
    /// `Permission` without root; `Conflict` when the store is healthy; `NotFound` when there are no
    /// exported files; why files or machine cannot be read.
    pub fn node_rebuild(
        config: &Config,
        by: (&Actor, &OperationId),
        rebuild: RebuildWhen,
        dry_run: bool,
    ) -> Result<Rebuilt, Error> {
        wiring::require_root()?;
        let state = config.data_dir.join(data::STATE);
        let reason = match recover::health(&state) {
            Health::Missing => "the store was gone".to_owned(),
            Health::Damaged(why) => format!("the store was damaged: {why}"),
            Health::Empty => "the store was empty".to_owned(),
            Health::Healthy if rebuild == RebuildWhen::Always => "it was asked by force".to_owned(),
            Health::Healthy => {
                return Err(Error::new(ErrorKind::Conflict, "the store is healthy")
                    .hint("to give it up all the same, and what its files lack: add --force"));
            }
        };
        let found = recover::read(&config.data_dir)?;
        if found.tenants.is_empty() {
            let message = format!("no exported files in {}", config.data_dir.display());
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        let host = LocalHost::new(wiring::roots(config));
        let rest = Settings::default().net_id_rest;
        let mut salvage = rebuild::salvage(&host, &SystemClock, found, rest, reason)?;
        if dry_run {
            return Ok(salvage.report);
        }
        recover::clear(&state)?;
        let fresh = SqliteStore::open(&recover::workshop(&state), None)?;
        salvage.fill(&fresh, &SystemClock)?;
        fresh.settle()?;
        let kept = recover::replace(&state)?;
        let store = wiring::store(config)?;
        let (actor, operation) = by;
        salvage.tell(&store, &SystemClock, actor, operation)?;
        salvage.report.kept = kept.map(|path| path.display().to_string());
        Ok(salvage.report)
    }
}
