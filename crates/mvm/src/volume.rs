//! A volume as files write it, and its size as flags write it, too. What it becomes, a drive of the
//! dev VM or the data disk of an instance, is decided where it is asked for.

use mvm_core::units::Mib;
use serde::Deserialize;

/// An entry of `[[volumes]]`, as it was written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WrittenVolume {
    /// What it is filled from, or its name.
    pub(crate) host: String,
    /// Where it is in the guest.
    pub(crate) guest: String,
    /// Its size: see [`size`].
    pub(crate) size: String,
}

/// A size with its unit, in powers of 1024: `512M`, `10G`, `1T`, or with `iB` behind it.
pub(crate) fn size(text: &str) -> Option<Mib> {
    let digits = text.trim_end_matches(|one: char| !one.is_ascii_digit());
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u32 = digits.parse().ok().filter(|number| is_number && *number > 0)?;
    let factor = match text.get(digits.len()..)? {
        "M" | "MiB" => 1,
        "G" | "GiB" => 1 << 10,
        "T" | "TiB" => 1 << 20,
        _ => return None,
    };
    number.checked_mul(factor).map(Mib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_and_fits() {
        for (text, mib) in [("64M", 64), ("2G", 2048), ("512MiB", 512), ("1T", 1 << 20)] {
            assert_eq!(size(text), Some(Mib(mib)), "{text}");
        }
        for text in ["", "G", "10", "0G", "-1G", "+1G", "1.5G", "10K", "1 G", "5000T"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
