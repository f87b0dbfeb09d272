//! `mvm upgrade`: other versions of this very program. It runs here, without a store.

use std::process::ExitCode;

use mvm::{
    Config, Error,
    upgrade::{Replace, Upgrade, UpgradeAct},
};

use crate::{
    args::{Format, Global, UpgradeArgs},
    render::progress::Reporter,
    run::print,
    show,
};

pub(crate) fn run(global: &Global, config: &Config, args: &UpgradeArgs) -> Result<ExitCode, Error> {
    let upgrade = Upgrade::of(config)?;
    let wanted = args.release.as_deref();
    let report = match (args.rollback, args.check || global.dry_run) {
        (true, true) => upgrade.former()?,
        (true, false) => upgrade.roll_back()?,
        (false, true) => upgrade.check(wanted)?,
        (false, false) => {
            let replace = if args.force { Replace::Any } else { Replace::Older };
            upgrade.install(wanted, replace, &Reporter::of(global))?
        }
    };
    if !(global.quiet && global.output() == Format::Table) {
        print(global.output(), &report, show::upgrade)?;
    }
    let is_news = args.check && report.act == UpgradeAct::Available;
    Ok(if is_news { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
