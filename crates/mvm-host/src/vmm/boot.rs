//! A cold boot: the configuration of a guest, call by call, and its start; pause and resume.

use mvm_core::{
    Error,
    effect::Jail,
    id::InstanceId,
    layout,
    net::Mac,
    observed::{Origin, PausedFor},
};
use mvm_proto::{GUEST_CID, HOLD};
use mvm_shim::record::VSOCK_SOCKET;

use super::{
    advice,
    api::{
        Api, Balloon, BootSource, CALL, Drive, GuestState, Machine, NetworkInterface, RateLimiter,
        Vsock,
    },
    cgroup, image, jail,
    place::{Place, remove_dir},
    records::Records,
    socket::Deadline,
};
use crate::roots::Roots;

/// The guest's one network interface, in Firecracker's words.
pub const INTERFACE: &str = "eth0";
/// The data drive, in Firecracker's words.
pub const DATA: &str = "data";

/// What every kernel is told, before what its image adds. A serial line costs an exit for each
/// byte, so a boot is quiet (a panic is still shown), and no time goes into looking for devices
/// that Firecracker does not have.
pub const BOOT_ARGS: [&str; 12] = [
    "console=ttyS0",
    "reboot=k",
    "panic=1",
    "pci=off",
    "quiet",
    "8250.nr_uarts=1",
    "i8042.noaux",
    "i8042.nomux",
    "i8042.dumbkbd",
    "root=/dev/vda",
    "ro",
    "init=/sbin/init",
];

/// Configures the guest and starts it. A guest that runs already is a success.
///
/// # Errors
/// `Failed` with Firecracker's reason and what to do about it; the VMM is of no use then.
pub fn boot(roots: &Roots, jail: &Jail) -> Result<(), Error> {
    configured(roots, jail).map_err(|error| advice::explained(roots, &jail.instance, error))
}

fn configured(roots: &Roots, jail: &Jail) -> Result<(), Error> {
    let place = Place::of(roots, &jail.instance.instance);
    let records = Records::at(&place);
    let deadline = Deadline::after(CALL);
    let mut api = Api::connect(&place, deadline)?;
    if api.state(deadline)? != GuestState::NotStarted {
        return Ok(());
    }
    remove_dir(&place.base())?;
    configure(roots, jail, &place, &mut api)?;
    records.set_paused_for(None)?;
    records.set_origin(Origin::Boot)?;
    api.start()
}

fn configure(roots: &Roots, jail: &Jail, place: &Place, api: &mut Api) -> Result<(), Error> {
    let image = image::files(roots, &jail.image)?;
    api.put(
        "machine-config",
        &Machine {
            vcpu_count: jail.resources.vcpus.0,
            mem_size_mib: jail.resources.mem_mib.0,
            smt: false,
            // Its first sleep writes what it touched until then, and no more.
            track_dirty_pages: true,
        },
    )?;
    let source = BootSource {
        kernel_image_path: jail::KERNEL,
        boot_args: &format!("{} {HOLD}", boot_args(&image.cmdline)),
        initrd_path: image.initrd.is_some().then_some(jail::INITRD),
    };
    api.put("boot-source", &source)?;
    for drive in drives(place, jail) {
        api.put(&format!("drives/{}", drive.drive_id), &drive)?;
    }
    let (net, offset) = (jail.identity.network.net, jail.identity.offset);
    let interface = NetworkInterface {
        iface_id: INTERFACE,
        host_dev_name: &layout::tap(net, offset),
        guest_mac: &Mac::of(net, offset).to_string(),
        rx_rate_limiter: RateLimiter::of(jail.resources.net_mbps, None),
        tx_rate_limiter: RateLimiter::of(jail.resources.net_mbps, None),
    };
    api.put(&format!("network-interfaces/{INTERFACE}"), &interface)?;
    api.put("vsock", &Vsock { guest_cid: GUEST_CID, uds_path: VSOCK_SOCKET })?;
    api.put("entropy", &serde_json::Map::new())?;
    // Empty; a device that is not there from the boot cannot be had later, nor by a clone.
    let balloon = Balloon { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s: 0 };
    api.put("balloon", &balloon)
}

/// The kernel's command line with what an image adds.
#[must_use]
pub fn boot_args(image: &[String]) -> String {
    let own = BOOT_ARGS.iter().map(|word| (*word).to_owned());
    own.chain(image.iter().cloned()).collect::<Vec<_>>().join(" ")
}

/// The root first, because it is `/dev/vda`; all others are found by their labels.
fn drives(place: &Place, jail: &Jail) -> Vec<Drive<'static>> {
    let drive = |drive_id, path_on_host, is_read_only| Drive {
        drive_id,
        path_on_host,
        is_root_device: false,
        is_read_only,
        // What only the guest reads needs no flush; what it writes is flushed when it asks.
        cache_type: if is_read_only { "Unsafe" } else { "Writeback" },
        rate_limiter: None,
    };
    let mut drives =
        vec![drive("rootfs", jail::ROOT_DRIVE, true), drive("config", jail::CONFIG_DRIVE, true)];
    if place.root.join(jail::SECRETS_DRIVE).exists() {
        drives.push(drive("secrets", jail::SECRETS_DRIVE, true));
    }
    if jail.resources.data_disk_mib.0 > 0 {
        let limits = RateLimiter::of(jail.resources.disk_mbps, jail.resources.disk_iops);
        drives.push(Drive { rate_limiter: limits, ..drive(DATA, jail::DATA_DRIVE, false) });
    }
    drives
}

/// Lets a guest see the size that its data volume has by now; without a guest nothing happens.
///
/// # Errors
/// `Failed` with Firecracker's reason.
pub fn refresh_data(roots: &Roots, instance: &InstanceId) -> Result<(), Error> {
    let place = Place::of(roots, instance);
    if super::observe::require(&place).is_err() {
        return Ok(());
    }
    let deadline = Deadline::after(CALL);
    let mut api = Api::connect(&place, deadline)?;
    if api.state(deadline)? == GuestState::NotStarted {
        return Ok(());
    }
    api.refresh_drive(DATA, jail::DATA_DRIVE)
}

/// Pauses the vCPUs for a purpose.
///
/// # Errors
/// `Unavailable` without an answer, `Failed` with Firecracker's reason.
pub fn pause(roots: &Roots, instance: &InstanceId, purpose: PausedFor) -> Result<(), Error> {
    let place = Place::of(roots, instance);
    let deadline = Deadline::after(CALL);
    let mut api = Api::connect(&place, deadline)?;
    let state = api.state(deadline)?;
    Records::at(&place).set_paused_for(Some(purpose))?;
    if state == GuestState::Paused {
        return Ok(());
    }
    api.set_state("Paused")
}

/// Lets the vCPUs run, under the limits they had before a snapshot.
///
/// # Errors
/// As [`pause`].
pub fn resume(roots: &Roots, instance: &InstanceId) -> Result<(), Error> {
    let place = Place::of(roots, instance);
    let records = Records::at(&place);
    if let Some(bytes) = records.memory_max()? {
        cgroup::set_memory_max(&place, bytes)?;
        records.set_memory_max(None)?;
    }
    let deadline = Deadline::after(CALL);
    let mut api = Api::connect(&place, deadline)?;
    records.set_paused_for(None)?;
    match api.set_state("Resumed") {
        // Asked only now: a wake waits for no answer that it does not need.
        Err(_) if api.state(deadline)? == GuestState::Running => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_adds_comes_last_so_that_it_wins() {
        let args = boot_args(&["rootfstype=squashfs".to_owned(), "init=/init".to_owned()]);
        assert!(args.starts_with("console=ttyS0 reboot=k panic=1 pci=off "), "{args}");
        assert!(args.ends_with(" init=/sbin/init rootfstype=squashfs init=/init"), "{args}");
    }
}
