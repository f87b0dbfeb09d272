//! How the machine that microVMs run on and its checks look.

use mvm::{
    Config, Error,
    doctor::{Check, Health},
    provider::{HostKind, MachineState},
};
use serde::Serialize;

use super::Dev;
use crate::render::table;

/// Where microVMs run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// `native`, `qemu` or `lima`; none when nothing can run them.
    pub(crate) provider: Option<HostKind>,
    /// What the machine is at the moment.
    pub(crate) state: MachineState,
    /// Why nothing can run them.
    pub(crate) problem: Option<String>,
    /// The version of this program, there and here.
    pub(crate) version: &'static str,
    /// The version of Firecracker for new microVMs.
    pub(crate) firecracker: String,
    /// The dev VM; none while it cannot be told.
    pub(crate) dev: Option<Dev>,
    /// What the command would do, with `--dry-run`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) would: Option<&'static str>,
}

impl Machine {
    /// A machine of a provider.
    pub(crate) fn of(config: &Config, provider: HostKind, state: MachineState) -> Self {
        Self {
            provider: Some(provider),
            state,
            problem: None,
            version: env!("CARGO_PKG_VERSION"),
            firecracker: config.firecracker.to_string(),
            dev: None,
            would: None,
        }
    }

    /// No machine.
    pub(crate) fn nowhere(config: &Config, error: &Error) -> Self {
        let problem = Some(error.to_string());
        let state = MachineState::Absent;
        Self { provider: None, problem, ..Self::of(config, HostKind::Native, state) }
    }
}

/// The lines of a machine.
pub(crate) fn machine(machine: &Machine) -> String {
    let provider = machine.provider.map_or_else(|| "none".to_owned(), |kind| kind.to_string());
    let mut rows = vec![("Provider", provider), ("State", machine.state.to_string())];
    rows.extend(machine.problem.clone().map(|problem| ("Problem", problem)));
    rows.push(("Version", machine.version.to_owned()));
    rows.push(("Firecracker", machine.firecracker.clone()));
    rows.extend(machine.dev.iter().flat_map(Dev::rows));
    rows.extend(machine.would.map(|would| ("Would", would.to_owned())));
    table::facts(rows)
}

/// The lines of all checks: the verdict first, advice below.
pub(crate) fn checks(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for check in checks {
        let word = match check.health {
            Health::Ok => "ok     ",
            Health::Warning => "warning",
            Health::Failed => "FAILED ",
        };
        lines.push(format!("{word}  {:<width$}  {}", check.name, check.found));
        lines.extend(check.advice.as_ref().map(|advice| format!("         try: {advice}")));
    }
    let count = |health: Health| checks.iter().filter(|check| check.health == health).count();
    lines.push(format!(
        "{} ok, {} warnings, {} failed",
        count(Health::Ok),
        count(Health::Warning),
        count(Health::Failed)
    ));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_stands_below_its_check_and_the_sum_at_the_end() {
        let check = |name: &str, health, advice: Option<&str>| Check {
            name: name.to_owned(),
            health,
            found: "found".to_owned(),
            advice: advice.map(str::to_owned),
        };
        let all = [check("a", Health::Ok, None), check("long", Health::Failed, Some("do it"))];
        assert_eq!(
            checks(&all),
            "ok       a     found\nFAILED   long  found\n         try: do it\n1 ok, 0 warnings, 1 failed"
        );
    }
}
