//! How large a kept machine is: what the configuration says, else what fits the caller's.

use mvm_core::error::{Error, ErrorKind};
use serde::{Deserialize, Serialize};

/// `[machine]` of `config.toml`. Memory and processors count from its next start on, the disk when
/// it is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Memory in MiB; half of the caller's, 2048 to 8192, if absent.
    pub memory_mib: Option<u32>,
    /// Processors; one if absent: where several run nested guests, the emulator hangs now and then.
    pub cpus: Option<u32>,
    /// The disk's size in GiB; it is sparse. 64 if absent.
    pub disk_gib: Option<u32>,
}

/// The least memory that a machine works with, in MiB.
const LEAST_MEMORY: u32 = 1024;

impl Machine {
    /// Refuses sizes that cannot work.
    ///
    /// # Errors
    /// `Invalid`, naming the key.
    pub fn validate(&self) -> Result<(), Error> {
        let least = |name: &str, value: Option<u32>, least: u32| match value {
            Some(value) if value < least => Err(Error::new(
                ErrorKind::Invalid,
                format!("machine.{name} is {value}: it must be at least {least}"),
            )),
            Some(_) | None => Ok(()),
        };
        least("memory_mib", self.memory_mib, LEAST_MEMORY)?;
        least("cpus", self.cpus, 1)?;
        least("disk_gib", self.disk_gib, super::qemu::DISK_GIB)
    }

    /// Memory in MiB on a machine that has `total` of it.
    #[must_use]
    pub fn memory(&self, total: u64) -> u32 {
        let half = u32::try_from(total / 2).unwrap_or(u32::MAX);
        self.memory_mib.unwrap_or_else(|| half.clamp(2048, 8192))
    }

    /// Processors.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.cpus.unwrap_or(1)
    }

    /// The disk's size in GiB.
    #[must_use]
    pub fn disk(&self) -> u32 {
        self.disk_gib.unwrap_or(64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_fits_its_host_unless_told_otherwise() {
        let default = Machine::default();
        assert_eq!([3000, 24_000, 4096].map(|total| default.memory(total)), [2048, 8192, 2048]);
        assert_eq!(default.cpus(), 1);
        let told = Machine { memory_mib: Some(3000), cpus: Some(8), disk_gib: Some(100) };
        assert_eq!((told.memory(1), told.cpus(), told.disk()), (3000, 8, 100));
    }

    #[test]
    fn a_size_that_cannot_work_is_refused_by_name() {
        let small = Machine { memory_mib: Some(64), ..Machine::default() };
        assert!(small.validate().is_err_and(|error| error.message.contains("memory_mib")));
        assert!(Machine::default().validate().is_ok());
    }
}
