//! What this directory's tests stand on: roots below a directory of their own.

use std::path::Path;

use crate::roots::Roots;

/// Roots whose every path lies below `dir`.
pub(crate) fn roots(dir: &Path) -> Roots {
    Roots {
        data: dir.join("data"),
        run: dir.join("run"),
        cgroup: dir.join("cgroup"),
        // How full the disk of whoever runs the tests is has no part in them.
        reserve_percent: 0,
        firecracker: mvm_core::id::VmmVersion::built_in(),
        shim: dir.join("mvm-shim"),
        pager: dir.join("mvm-pager"),
        resolv_conf: "/etc/resolv.conf".into(),
        given: std::sync::Arc::default(),
    }
}
