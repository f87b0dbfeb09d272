//! Who a program runs as, and where it is found: `/etc/passwd`, `/etc/group` and `PATH`.
//!
//! This module refuses to know any other source of users.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mvm_proto::{Failure, FailureKind};

use crate::failure::{Outcome, failure};

/// A user of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

impl User {
    /// The home directory, or the root where it does not exist.
    pub(crate) fn existing_home(&self) -> &str {
        if Path::new(&self.home).is_dir() { &self.home } else { "/" }
    }

    /// What a child has to become, `None` for who the agent itself is.
    pub(crate) fn identity(&self) -> Option<(u32, u32, Vec<u32>)> {
        let own = rustix::process::geteuid().as_raw();
        (self.uid != own).then(|| (self.uid, self.gid, self.groups.clone()))
    }
}

/// Finds a user by name or uid; a uid without an entry is a user without a name. After a colon a
/// group may stand, by name or number, instead of those that the user has.
pub(crate) fn find(wanted: &str) -> Outcome<User> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    find_in(wanted, &passwd, &groups)
        .ok_or_else(|| Failure::new(FailureKind::Invalid, format!("no user {wanted}")))
}

fn find_in(wanted: &str, passwd: &str, groups: &str) -> Option<User> {
    if let Some((user, group)) = wanted.split_once(':') {
        let gid = group_in(group, groups)?;
        return Some(User { gid, groups: vec![gid], ..find_in(user, passwd, groups)? });
    }
    let number = wanted.parse::<u32>().ok();
    let entry = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        let gid: u32 = fields.next()?.parse().ok()?;
        let home = fields.nth(1)?;
        let is_wanted = name == wanted || number == Some(uid);
        is_wanted.then(|| (name.to_owned(), uid, gid, home.to_owned()))
    });
    let (name, uid, gid, home) = match (entry, number) {
        (Some(entry), _) => entry,
        (None, Some(0)) => ("root".to_owned(), 0, 0, "/root".to_owned()),
        (None, Some(uid)) => (uid.to_string(), uid, uid, "/".to_owned()),
        (None, None) => return None,
    };
    let mut member_of = vec![gid];
    member_of.extend(groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let group: u32 = fields.nth(2)?.parse().ok()?;
        let is_member = fields.next()?.split(',').any(|member| member == name);
        (is_member && group != gid).then_some(group)
    }));
    let home = if home.is_empty() { "/".to_owned() } else { home };
    Some(User { name, uid, gid, groups: member_of, home })
}

fn group_in(wanted: &str, groups: &str) -> Option<u32> {
    let named = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == wanted).then(|| fields.nth(1)?.parse().ok()).flatten()
    });
    named.or_else(|| wanted.parse().ok())
}

/// Finds a program as a shell does.
///
/// Not found and not executable are told apart, because their exit codes differ (127, 126).
pub(crate) fn find_program(name: &str, path: &str, cwd: &Path) -> Outcome<PathBuf> {
    let candidates: Vec<PathBuf> = if name.contains('/') {
        vec![cwd.join(name)]
    } else {
        path.split(':').map(|directory| cwd.join(directory).join(name)).collect()
    };
    let mut seen = None;
    for candidate in candidates {
        let Ok(metadata) = fs::metadata(&candidate) else { continue };
        if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
            return Ok(candidate);
        }
        seen = Some(candidate);
    }
    match seen {
        Some(found) => {
            failure(FailureKind::NotExecutable, format!("{} is not executable", found.display()))
        }
        None => failure(FailureKind::NotFound, format!("no program {name}")),
    }
}

/// What a failed start means to the caller.
pub(crate) fn launch_failure(name: &str, error: &std::io::Error) -> Failure {
    let kind = match error.raw_os_error() {
        // A script whose interpreter is missing.
        Some(libc::ENOENT) => FailureKind::NotFound,
        Some(libc::EACCES | libc::ENOEXEC | libc::EISDIR | libc::ETXTBSY) => {
            FailureKind::NotExecutable
        }
        Some(libc::EAGAIN | libc::ENOMEM) => FailureKind::Busy,
        _ => FailureKind::Failed,
    };
    Failure::new(kind, format!("cannot start {name}: {error}"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbad\nweb:x:33:44::/srv:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nlog:x:7:web,root\nweb:x:44:web\n";

    #[test]
    fn a_user_is_found_by_name_and_by_number_with_its_groups() {
        let web = find_in("web", PASSWD, GROUP).unwrap();
        assert_eq!((web.uid, web.gid, web.groups.clone()), (33, 44, vec![44, 7]));
        assert_eq!(find_in("33", PASSWD, GROUP), Some(web));
        assert_eq!(find_in("1000", PASSWD, GROUP).unwrap().gid, 1000);
        assert_eq!(find_in("nobody", PASSWD, GROUP), None);
        assert_eq!(find_in("0", "", "").unwrap().home, "/root");
        let logged = find_in("web:log", PASSWD, GROUP).unwrap();
        assert_eq!((logged.uid, logged.gid, logged.groups), (33, 7, vec![7]));
        assert_eq!(find_in("33:1000", PASSWD, GROUP).unwrap().gid, 1000);
        assert_eq!(find_in("web:nogroup", PASSWD, GROUP), None);
    }

    #[test]
    fn a_missing_program_and_one_that_cannot_be_executed_are_told_apart() {
        let cwd = Path::new("/");
        assert!(find_program("sh", "/nowhere:/bin", cwd).is_ok());
        let missing = find_program("frobnicate", "/bin", cwd).unwrap_err();
        assert_eq!(missing.kind, FailureKind::NotFound);
        let plain = find_program("/etc/passwd", "/bin", cwd).unwrap_err();
        assert_eq!(plain.kind, FailureKind::NotExecutable);
    }
}
