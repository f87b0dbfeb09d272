//! What Lima is told of the machine: `lima.yaml`, from sizes and a pinned image.
//!
//! The keys are those of Lima's `templates/default.yaml`; `nestedVirtualization` is known to its driver
//! `vz` from Lima 1.0 on, with macOS 15 on Apple M3 and newer. It refuses to know whether that is so.

use mvm_build::Arch;

use crate::provider::Machine;

/// The file with its gaps.
const TEMPLATE: &str = include_str!("lima.yaml");

/// What Lima makes machines with here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Driver {
    /// macOS's own framework, which can nest on Apple M3 and newer.
    Vz,
    /// QEMU, with KVM where that nests.
    Qemu,
}

impl Driver {
    /// The one for the system that this program was compiled for.
    pub(super) const fn native() -> Self {
        if cfg!(target_os = "macos") { Self::Vz } else { Self::Qemu }
    }
}

/// A Debian cloud image, pinned by the digest that Lima verifies. As Lima's own template
/// `_images/debian-12` names it; any other place that has these bytes would do.
struct Image {
    arch: Arch,
    location: &'static str,
    sha512: &'static str,
}

const IMAGES: [Image; 2] = [
    Image {
        arch: Arch::X86_64,
        location: "https://cloud.debian.org/images/cloud/bookworm/20260923-2610/debian-12-genericcloud-amd64-20260923-2610.qcow2",
        sha512: "3d94c9dd66d8a283fde060b8810373b7ae04038b956ee00d553d1ae564f6fbdeaa2fd6e7404e87e53348b5a9509170f3ea7c0731ba737590c5c4cb8d559a47f8",
    },
    Image {
        arch: Arch::Aarch64,
        location: "https://cloud.debian.org/images/cloud/bookworm/20260923-2610/debian-12-genericcloud-arm64-20260923-2610.qcow2",
        sha512: "89a752d5c7d8e88bee39a57d88d496cca574f7d1e8df5df7a169825435f99feb11ed13ab27ec7bee96fe1584be4ff9479358fbca6cc859efa109f4aba18724c8",
    },
];

/// The file for a machine, on a host with so much memory in MiB.
pub(super) fn fill(driver: Driver, machine: Machine, total: u64) -> String {
    let vm = match driver {
        Driver::Vz => "vmType: \"vz\"\nmountType: \"virtiofs\"\nnestedVirtualization: true",
        // Debian's cloud kernel has no 9p.
        Driver::Qemu => "vmType: \"qemu\"\nmountType: \"reverse-sshfs\"",
    };
    let images = IMAGES.iter().map(|Image { arch, location, sha512 }| {
        let arch = arch.as_str();
        format!("- location: \"{location}\"\n  arch: \"{arch}\"\n  digest: \"sha512:{sha512}\"")
    });
    TEMPLATE
        .replace("@VM@", vm)
        .replace("@IMAGES@", &images.collect::<Vec<_>>().join("\n"))
        .replace("@CPUS@", &machine.cpus().to_string())
        .replace("@MEMORY@", &machine.memory(total).to_string())
        .replace("@DISK@", &machine.disk().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_nests_on_macos_and_its_image_is_pinned() {
        let machine = Machine { memory_mib: Some(3000), cpus: Some(2), disk_gib: Some(20) };
        let (mac, linux) = (fill(Driver::Vz, machine, 1), fill(Driver::Qemu, machine, 1));
        assert!(mac.contains("vmType: \"vz\"") && mac.contains("\nnestedVirtualization: true\n"));
        assert!(linux.contains("vmType: \"qemu\"") && !linux.contains("nestedVirtualization"));
        for text in [mac, linux] {
            for line in
                ["cpus: 2\n", "memory: \"3000MiB\"\n", "disk: \"20GiB\"\n", "  writable: true\n"]
            {
                assert!(text.contains(line), "{line}");
            }
            assert_eq!(
                text.matches("  digest: \"sha512:").count(),
                text.matches("- location: \"https").count()
            );
            assert!(!text.contains('@'), "a gap is left: {text}");
        }
        assert!(IMAGES.iter().all(|image| image.sha512.len() == 128));
    }
}
