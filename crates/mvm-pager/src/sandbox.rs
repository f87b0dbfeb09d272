//! What a pager may do: the system calls of the fault loop, and nothing that opens, connects or starts.
//!
//! A pager reads files that a hostile guest had a part in and answers a VMM that may be hostile; a flaw
//! in it must not become a process that does more than answer page faults.

use std::io;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// What the loop, the allocator and the end of the process need. Without arguments checked: the files
/// and sockets that are open are all there are.
const ALLOWED: [libc::c_long; 28] = [
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_futex,
    libc::SYS_ioctl,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Lets this process do no more than that; what it tries else kills it.
///
/// # Errors
/// When the kernel refuses; the process must not go on then.
pub fn enter() -> io::Result<()> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let mut rules: std::collections::BTreeMap<_, _> =
        ALLOWED.into_iter().map(|number| (number, Vec::new())).collect();
    // `poll` is a call of its own on x86_64 only.
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_poll, Vec::new());
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)
        .map_err(io::Error::other)?;
    let program = BpfProgram::try_from(filter).map_err(io::Error::other)?;
    rustix::thread::set_no_new_privs(true)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}
