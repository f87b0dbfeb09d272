//! Listening sockets that are named by an open directory and a short name.
//!
//! A socket's path may have 107 bytes; through `/proc/self/fd` its real length never matters. Whose a
//! socket is and who may connect is decided where it is wanted.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixListener,
    },
};

/// Listens at `name` in the open `directory`, in place of an earlier socket; the listener is non-blocking.
///
/// # Errors
/// When what has the name cannot be removed, or no socket be made there.
pub fn listen(directory: impl AsFd, name: &str) -> io::Result<UnixListener> {
    let path = format!("/proc/self/fd/{}/{name}", directory.as_fd().as_raw_fd());
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) | Ok(()) => {}
    }
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use std::{fs::File, os::unix::net::UnixStream};

    use super::*;

    #[test]
    fn a_listener_takes_the_place_of_an_earlier_one() {
        let base = tempfile::tempdir().unwrap();
        // The path is too long for a socket's address on purpose.
        let long = base.path().join("x".repeat(120));
        fs::create_dir(&long).unwrap();
        let directory = File::open(&long).unwrap();
        drop(listen(&directory, "s").unwrap());
        let listener = listen(&directory, "s").unwrap();
        let none = listener.accept().unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::WouldBlock);
        UnixStream::connect(format!("/proc/self/fd/{}/s", directory.as_raw_fd())).unwrap();
        assert!(listener.accept().is_ok());
    }

    #[test]
    fn a_directory_of_that_name_stays() {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("s")).unwrap();
        assert!(listen(File::open(base.path()).unwrap(), "s").is_err());
        assert!(base.path().join("s").is_dir());
    }
}
