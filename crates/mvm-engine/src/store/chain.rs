//! The hash chain of a tenant's audit log: every entry holds the hash of the one before.
//!
//! `hash = SHA-256(previous ‖ canonical)`, where `canonical` is the entry without its hash as JSON
//! with sorted keys and no spaces, so that any program can check a log. It refuses to know where
//! entries are kept.

use mvm_core::{
    error::{Error, ErrorKind},
    event::{Event, LoggedEvent},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What the first entry holds as the hash before it.
pub const START: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Puts `event` at place `seq` behind the entry with the hash `previous`.
///
/// # Errors
/// `Failed` when the event cannot be written as JSON.
pub fn link(previous: &str, seq: u64, event: &Event) -> Result<LoggedEvent, Error> {
    let mut entry = LoggedEvent {
        seq,
        event: event.clone(),
        previous: previous.to_owned(),
        hash: String::new(),
    };
    entry.hash = hash(&entry)?;
    Ok(entry)
}

/// Checks that `entries` follow each other unaltered, from whatever place the first one has.
///
/// # Errors
/// `Integrity` naming the first entry that does not fit.
pub fn verify(entries: &[LoggedEvent]) -> Result<(), Error> {
    let broken = |seq: u64, why: &str| {
        Err(Error::new(ErrorKind::Integrity, format!("audit entry {seq} {why}")))
    };
    let mut before: Option<&LoggedEvent> = None;
    for entry in entries {
        match before {
            Some(last) if entry.seq != last.seq + 1 => {
                return broken(entry.seq, "does not follow the one before it");
            }
            Some(last) if entry.previous != last.hash => {
                return broken(entry.seq, "does not hold the hash of the one before it");
            }
            None if entry.seq == 1 && entry.previous != START => {
                return broken(entry.seq, "is the first and holds a hash of one before it");
            }
            Some(_) | None => {}
        }
        if hash(entry)? != entry.hash {
            return broken(entry.seq, "was altered: its hash does not fit");
        }
        before = Some(entry);
    }
    Ok(())
}

fn hash(entry: &LoggedEvent) -> Result<String, Error> {
    let mut value = serde_json::to_value(entry)
        .map_err(|e| Error::new(ErrorKind::Failed, "cannot write an audit entry").because(&e))?;
    if let Value::Object(fields) = &mut value {
        fields.remove("hash");
    }
    let mut text = entry.previous.clone();
    canonical(&value, &mut text);
    Ok(hex::encode(Sha256::digest(text)))
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (place, (key, field)) in sorted.into_iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                canonical(field, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (place, item) in items.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string());
        }
    }
}
