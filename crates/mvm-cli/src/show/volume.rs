//! What `mvm volume …` shows.

use mvm::{Volume, VolumeKind, VolumeStage};

use crate::render::table::{facts, table};

const fn kind(volume: &Volume) -> &'static str {
    match volume.kind {
        VolumeKind::Plain => "no",
        VolumeKind::Luks => "LUKS2",
    }
}

fn stage(volume: &Volume) -> String {
    match &volume.stage {
        VolumeStage::Kept => "kept".to_owned(),
        VolumeStage::Leaving(instance) => format!("leaving {instance}"),
        VolumeStage::Joining(instance) => format!("joining {instance}"),
        VolumeStage::Removing => "being removed".to_owned(),
    }
}

pub(crate) fn volumes(all: &[Volume]) -> String {
    let row = |one: &Volume| {
        [
            one.volume.to_string(),
            one.size.to_string(),
            kind(one).to_owned(),
            one.origin.to_string(),
            stage(one),
        ]
    };
    table(["VOLUME", "SIZE", "ENCRYPTED", "FROM", "STATE"], all.iter().map(row).collect())
}

pub(crate) fn volume(one: &Volume) -> String {
    facts(vec![
        ("Volume", one.volume.to_string()),
        ("Size", one.size.to_string()),
        ("Encrypted", kind(one).to_owned()),
        ("From", one.origin.to_string()),
        ("State", stage(one)),
    ])
}
