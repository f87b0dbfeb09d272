//! What this directory's tests stand on: roots below a directory of their own.

use std::path::Path;

use crate::roots::Roots;

/// Roots whose every path lies below `dir`.
pub(crate) fn roots(dir: &Path) -> Roots {
    Roots {
        data: dir.join("data"),
        run: dir.join("run"),
        cgroup: dir.join("cgroup"),
        reserve_percent: crate::disk::space::RESERVE_PERCENT,
        shim: dir.join("mvm-shim"),
        resolv_conf: "/etc/resolv.conf".into(),
    }
}
