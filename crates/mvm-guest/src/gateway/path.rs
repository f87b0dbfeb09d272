//! The path of a request as routes see it, and whether a prefix matches.
//!
//! What is passed on is the request's own target, unchanged; this form is for matching only. A path
//! that two programs could read as two paths is refused, so that no request reaches a pool by a
//! path that its instance reads as another route's. This module refuses to know routes.

use std::borrow::Cow;

/// Why a target is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unclear {
    /// It is no path at all.
    Form,
    /// It has a segment of dots.
    Dots,
}

/// The path of a request's target: unreserved bytes decoded, slashes in a row made one.
pub(crate) fn normal(target: &str) -> Result<String, Unclear> {
    let path = origin(target)?;
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut normal = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let segment = decode(segment)?;
        if matches!(&*segment, "." | "..") {
            return Err(Unclear::Dots);
        }
        normal.push('/');
        normal.push_str(&segment);
    }
    if normal.is_empty() || path.ends_with('/') {
        normal.push('/');
    }
    Ok(normal)
}

/// From any form of a target to the path with its query: `/p?q`, `http://host/p?q`, `*`.
fn origin(target: &str) -> Result<&str, Unclear> {
    if target.starts_with('/') {
        return Ok(target);
    }
    if target == "*" {
        return Ok("/");
    }
    let lower = target.get(..8).unwrap_or(target).to_ascii_lowercase();
    let length = ["http://", "https://"].iter().find(|scheme| lower.starts_with(**scheme));
    let rest = length.and_then(|scheme| target.get(scheme.len()..)).ok_or(Unclear::Form)?;
    Ok(rest.find(['/', '?', '#']).and_then(|at| rest.get(at..)).unwrap_or("/"))
}

/// Decodes the bytes that mean the same encoded and plain (RFC 3986, 2.3).
fn decode(segment: &str) -> Result<Cow<'_, str>, Unclear> {
    if !segment.contains('%') {
        return Ok(Cow::Borrowed(segment));
    }
    let mut parts = segment.split('%');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let byte = code.and_then(|hex| u8::from_str_radix(hex, 16).ok()).ok_or(Unclear::Form)?;
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            decoded.push(char::from(byte));
        } else {
            decoded.push('%');
            decoded.push_str(&code.unwrap_or_default().to_ascii_uppercase());
        }
        decoded.push_str(part.get(2..).unwrap_or_default());
    }
    Ok(Cow::Owned(decoded))
}

/// Whether a path begins with the segments of a prefix; a slash at its end says nothing.
pub(crate) fn matches(path: &str, prefix: &str) -> bool {
    let prefix = prefix.trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_path_has_one_form() {
        for (target, path) in [
            ("/", "/"),
            ("/api?x=/../y", "/api"),
            ("/api/", "/api/"),
            ("//api///v1", "/api/v1"),
            ("/%61pi/%7Euser/a%2fb%20c", "/api/~user/a%2Fb%20c"),
            ("http://host:80/api?x", "/api"),
            ("HTTPS://host", "/"),
            ("http://host?x", "/"),
            ("*", "/"),
        ] {
            assert_eq!(normal(target), Ok(path.to_owned()), "{target}");
        }
    }

    #[test]
    fn what_two_programs_could_read_as_two_paths_is_refused() {
        for target in ["/a/../b", "/a/%2e%2E/b", "/a/.%2e", "/./a", "/a/."] {
            assert_eq!(normal(target), Err(Unclear::Dots), "{target}");
        }
        for target in ["", "host:80", "api", "/%", "/%4", "/%zz", "ftp://x/", "/%é9"] {
            assert_eq!(normal(target), Err(Unclear::Form), "{target}");
        }
    }

    #[test]
    fn a_prefix_matches_whole_segments() {
        for (path, prefix) in
            [("/api", "/api"), ("/api/x", "/api"), ("/api/x", "/api/"), ("/", "/")]
        {
            assert!(matches(path, prefix), "{path} {prefix}");
        }
        assert!(!matches("/apix", "/api") && !matches("/", "/api") && !matches("/ap", "/api"));
    }
}
