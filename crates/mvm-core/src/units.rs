//! Quantities with their unit in the type; no bare integer crosses a boundary.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($inner:ty), $unit:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!("{}", $unit), self.0)
            }
        }
    };
}

quantity!(
    /// An amount of memory or disk in MiB.
    Mib(u32), " MiB"
);
quantity!(
    /// An amount of disk in GiB.
    Gib(u32), " GiB"
);
quantity!(
    /// A number of virtual CPUs, 1–32 for one instance (Firecracker's limit).
    Vcpus(u32), ""
);
quantity!(
    /// A user and group id on the host; unique per instance (SPEC §2).
    Uid(u32), ""
);
quantity!(
    /// Counts changes of one record; greater is later.
    Generation(u64), ""
);
quantity!(
    /// Milliseconds since the Unix epoch, UTC.
    Timestamp(u64), " ms"
);
quantity!(
    /// A span of time in whole seconds.
    Seconds(u32), " s"
);

impl Mib {
    /// The amount in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0 as u64 * 1024 * 1024
    }
}

impl Generation {
    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Seconds {
    /// The span as a standard duration.
    #[must_use]
    pub const fn duration(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0 as u64)
    }
}

impl Timestamp {
    /// This moment and `seconds` more.
    #[must_use]
    pub const fn plus(self, seconds: Seconds) -> Self {
        Self(self.0 + seconds.0 as u64 * 1000)
    }
}
