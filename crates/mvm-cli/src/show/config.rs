//! What `mvm config ls` shows.

use mvm::{Origin, Setting};

use crate::render::table::table;

pub(crate) fn settings(all: &[Setting]) -> String {
    let row = |one: &Setting| {
        let origin = match one.origin {
            Origin::Flag => "flag".to_owned(),
            Origin::Environment => format!("environment ({})", one.variable.unwrap_or("?")),
            Origin::File => "file".to_owned(),
            Origin::Default => "default".to_owned(),
        };
        let value = one.value.clone().unwrap_or_else(|| "-".to_owned());
        [one.name.to_owned(), value, origin, one.variable.unwrap_or("-").to_owned()]
    };
    table(["SETTING", "VALUE", "FROM", "VARIABLE"], all.iter().map(row).collect())
}
