//! How an upgrade looks.

use mvm::upgrade::{UpgradeAct, UpgradeReport};

/// What was found or done, and what a person does next.
pub(crate) fn upgrade(report: &UpgradeReport) -> String {
    let UpgradeReport { act, version, asked, former, directory, restart } = report;
    let place = directory.display();
    let mut lines = vec![match act {
        UpgradeAct::None if version == asked => format!("mvm {version} is up to date."),
        UpgradeAct::None => format!("mvm {version} is here, and {asked} is no newer."),
        UpgradeAct::Available => format!("mvm {version} is here, and {asked} can be had."),
        UpgradeAct::Installed => format!("mvm {version} is installed in {place}."),
        UpgradeAct::RolledBack => format!("mvm {version} is in force again in {place}."),
    }];
    if let (UpgradeAct::Installed, Some(former)) = (act, former) {
        lines.push(format!("{former} is kept: mvm upgrade --rollback"));
    }
    if !restart.is_empty() {
        let units = restart.join(" ");
        lines.push(format!("These go on as before until: systemctl restart {units}"));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_to_do_stands_below_what_was_done() {
        let report = UpgradeReport {
            act: UpgradeAct::Installed,
            version: "0.2.0".to_owned(),
            asked: "0.2.0".to_owned(),
            former: Some("0.1.0".to_owned()),
            directory: "/usr/local/bin".into(),
            restart: vec!["mvm-hostd".to_owned(), "mvm-agentd".to_owned()],
        };
        assert_eq!(
            upgrade(&report),
            "mvm 0.2.0 is installed in /usr/local/bin.\n0.1.0 is kept: mvm upgrade --rollback\n\
             These go on as before until: systemctl restart mvm-hostd mvm-agentd"
        );
    }
}
