//! What kept volumes and the room on the disk are called and mean.

use mvm::{InstanceRef, Room, Volume, VolumeStage};
use serde_json::{Value, json};

use super::{Definitions, Described, Fields, core::single, describe, named};
use crate::show::Disk;

describe!(Room, "Room", "The room on the data file system.", {
    total_mib: "All of it in MiB.",
    free_mib: "What is free in MiB.",
    reserve_mib: "What stays free in MiB.",
});

impl Described for Disk {
    fn schema(definitions: &mut Definitions) -> Value {
        let _: fn(&Self) = |one| {
            let Self { room: _, available_mib: _, used_bytes: _, tenants: _ } = one;
        };
        named(definitions, "Disk", |definitions| {
            let mut fields = Fields::new("The disk of this node.");
            let room = Room::schema(definitions);
            fields.flatten(&room, definitions);
            let available = "What may be taken in MiB: what is free without the reserve.";
            fields.add("available_mib", available, u64::schema(definitions));
            let used = super::of_field(|one: &Self| &one.used_bytes, definitions);
            fields.add("used_bytes", "What lies there by its class, in bytes.", used);
            let tenants = super::of_field(|one: &Self| &one.tenants, definitions);
            fields.add("tenants", "What is each tenant's, by class, in bytes.", tenants);
            fields.finish()
        })
    }
}

impl Described for VolumeStage {
    fn schema(definitions: &mut Definitions) -> Value {
        let _: fn(&Self) = |one| match one {
            Self::Leaving(_) | Self::Kept | Self::Joining(_) | Self::Removing => {}
        };
        let leaving = single("leaving", InstanceRef::schema(definitions));
        let joining = single("joining", InstanceRef::schema(definitions));
        named(definitions, "VolumeStage", |_| {
            json!({
                "description": "Where a kept volume is in its life.",
                "anyOf": [{ "type": "string", "enum": ["kept", "removing"] }, leaving, joining],
            })
        })
    }
}

describe!(Volume, "Volume", "A volume that outlived its instance.", {
    volume: "Its name.",
    origin: "Whose it was.",
    size: "Its size in MiB.",
    kind: "How it lies on disk.",
    is_growing: "Whether its file system may not fill it yet.",
    stage: "Where it is in its life.",
    created_at: "When it began to be kept, in milliseconds since 1970-01-01 UTC.",
    generation: "Counts the changes of the record.",
});
