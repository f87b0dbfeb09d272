//! Secrets as text: a flat JSON object, checked and cut out in place, so that no value is copied.
//!
//! [`Secrets`] cannot be printed, compared, copied or serialised, and its memory is cleared when it
//! is dropped. A refusal names the key and never quotes a value.
//!
//! ```compile_fail
//! fn printable<T: std::fmt::Debug>() {}
//! printable::<mvm_host::secrets::Secrets>();
//! ```
//! ```compile_fail
//! fn sendable_as_text<T: serde::Serialize>() {}
//! sendable_as_text::<mvm_host::secrets::Secrets>();
//! ```
//! ```compile_fail
//! fn copyable<T: Clone>() {}
//! copyable::<mvm_host::secrets::Secrets>();
//! ```

use std::{collections::BTreeMap, ops::Range};

use mvm_core::{
    Error, ErrorKind,
    secrets::{MAX_KEY, MAX_TOTAL, is_key},
};
use serde::de::IgnoredAny;
use thiserror::Error as ThisError;
use zeroize::Zeroizing;

/// Why a text is not accepted; it holds keys at most.
#[derive(Debug, PartialEq, Eq, ThisError)]
pub enum Refusal {
    /// Not UTF-8.
    #[error("it is not UTF-8 text")]
    NotText,
    /// Not JSON.
    #[error("it is not JSON: see line {line}, column {column}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// JSON, and something else than an object.
    #[error("it is not a JSON object of keys and values")]
    NotAnObject,
    /// A key outside of the alphabet.
    #[error("the key {0:?} is not made of 1 to {MAX_KEY} letters, digits, '_', '.' and '-'")]
    Key(String),
    /// A key that is there twice.
    #[error("the key {0} is there twice")]
    Twice(String),
    /// A value of another type.
    #[error("the value of {key} is {what}: it must be a string")]
    NotAString {
        /// Its key.
        key: String,
        /// What it is.
        what: &'static str,
    },
    /// Half a surrogate pair.
    #[error("the value of {0} has an escape that is no character")]
    Escape(String),
    /// Too much.
    #[error("keys and values take {0} bytes: they may take {MAX_TOTAL}")]
    TooMuch(usize),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(ErrorKind::Invalid, refusal.to_string())
            .hint("secrets are one flat JSON object: {\"name\": \"value\", …}")
    }
}

/// A tenant's secrets.
pub struct Secrets {
    text: Zeroizing<Vec<u8>>,
    /// Where the value of each key is in the text, with its quotes and escapes.
    values: BTreeMap<String, Range<usize>>,
}

impl Secrets {
    /// Checks a text and takes it over.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: Zeroizing<Vec<u8>>) -> Result<Self, Refusal> {
        let checked = std::str::from_utf8(&text).map_err(|_| Refusal::NotText)?;
        // The error's own words may quote what they stumble over; only its place is kept.
        serde_json::from_str::<IgnoredAny>(checked)
            .map_err(|error| Refusal::Syntax { line: error.line(), column: error.column() })?;
        let values = Scan { text: &text, at: 0 }.object()?;
        let total = values.iter().map(|(key, value)| key.len() + value.len() - 2).sum();
        if total > MAX_TOTAL {
            return Err(Refusal::TooMuch(total));
        }
        Ok(Self { text, values })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.values.len()).unwrap_or(u32::MAX)
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The object with the keys that are wanted, sorted, as one line.
    #[must_use]
    pub fn render(&self, wanted: impl Fn(&str) -> bool) -> Zeroizing<Vec<u8>> {
        let wanted: Vec<_> = self.values.iter().filter(|(key, _)| wanted(key)).collect();
        let length: usize = wanted.iter().map(|(key, value)| key.len() + value.len() + 4).sum();
        // Reserved in one piece: growing would leave copies behind.
        let mut out = Zeroizing::new(Vec::with_capacity(length + 3));
        out.push(b'{');
        for (place, (key, value)) in wanted.into_iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(self.text.get(value.clone()).unwrap_or_default());
        }
        out.extend_from_slice(b"}\n");
        out
    }
}

/// A walk over text that is known to be JSON.
struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn object(mut self) -> Result<BTreeMap<String, Range<usize>>, Refusal> {
        let mut values = BTreeMap::new();
        if self.next() != Some(b'{') {
            return Err(Refusal::NotAnObject);
        }
        self.at += 1;
        while self.next() == Some(b'"') {
            let key = self.string();
            let key = self.text.get(key).unwrap_or_default();
            let key: String = serde_json::from_slice(key)
                .map_err(|_| Refusal::Key(String::from_utf8_lossy(key).into_owned()))?;
            if !is_key(&key) {
                return Err(Refusal::Key(key.chars().take(MAX_KEY).collect()));
            }
            // The colon.
            self.next();
            self.at += 1;
            let what = match self.next() {
                Some(b'"') => {
                    let value = self.string();
                    if !is_whole(self.text.get(value.clone()).unwrap_or_default()) {
                        return Err(Refusal::Escape(key));
                    }
                    if values.insert(key.clone(), value).is_some() {
                        return Err(Refusal::Twice(key));
                    }
                    if self.next() == Some(b',') {
                        self.at += 1;
                    }
                    continue;
                }
                Some(b'{') => "an object",
                Some(b'[') => "a list",
                Some(b't' | b'f') => "true or false",
                Some(b'n') => "null",
                Some(_) | None => "a number",
            };
            return Err(Refusal::NotAString { key, what });
        }
        Ok(values)
    }

    /// The next byte that is no space, without taking it.
    fn next(&mut self) -> Option<u8> {
        while matches!(self.text.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
        self.text.get(self.at).copied()
    }

    /// Takes the string that begins here; its quotes belong to it.
    fn string(&mut self) -> Range<usize> {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.text.get(self.at) {
            self.at += if *byte == b'\\' { 2 } else { 1 };
            if *byte == b'"' {
                break;
            }
        }
        start..self.at.min(self.text.len())
    }
}

/// Whether every `\u` escape of a JSON string stands for a character, alone or with its other half.
fn is_whole(string: &[u8]) -> bool {
    let unit = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits.get(..4)?).ok()?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut rest = string;
    while let Some(place) = rest.iter().position(|byte| *byte == b'\\') {
        rest = rest.get(place + 1..).unwrap_or_default();
        let Some(digits) = rest.strip_prefix(b"u") else {
            rest = rest.get(1..).unwrap_or_default();
            continue;
        };
        rest = digits.get(4..).unwrap_or_default();
        match unit(digits) {
            Some(0xd800..=0xdbff) => {
                let low = rest.strip_prefix(b"\\u").and_then(unit);
                if !matches!(low, Some(0xdc00..=0xdfff)) {
                    return false;
                }
                rest = rest.get(6..).unwrap_or_default();
            }
            Some(0xdc00..=0xdfff) | None => return false,
            Some(_) => {}
        }
    }
    true
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Secrets, Refusal> {
        Secrets::parse(Zeroizing::new(text.as_bytes().to_vec()))
    }

    fn refusal(text: &str) -> Refusal {
        parse(text).err().unwrap()
    }

    #[test]
    fn keys_and_values_survive_whatever_they_hold() {
        let text = " {\n\"b\" : \"x\\\"}, \\\\\" ,\"a\":\"\\ud83d\\ude00ä\" } ";
        let secrets = parse(text).unwrap();
        assert_eq!(secrets.count(), 2);
        assert_eq!(secrets.keys().collect::<Vec<_>>(), ["a", "b"]);
        let all = secrets.render(|_| true);
        assert_eq!(all.capacity(), all.len() + 1, "reserved in one piece");
        let read: BTreeMap<String, String> = serde_json::from_slice(&all).unwrap();
        assert_eq!(read, serde_json::from_str(text).unwrap());
        assert_eq!(
            secrets.render(|key| key == "a").as_slice(),
            "{\"a\":\"\\ud83d\\ude00ä\"}\n".as_bytes()
        );
        assert_eq!(parse("{}").unwrap().render(|_| true).as_slice(), b"{}\n");
    }

    #[test]
    fn what_is_no_flat_object_of_strings_is_refused_by_key() {
        let not = |key: &str, what| Refusal::NotAString { key: key.to_owned(), what };
        for (text, why) in [
            ("[]", Refusal::NotAnObject),
            ("\"hunter2\"", Refusal::NotAnObject),
            ("{\"a\":\"hunter2\",\"a\":\"hunter3\"}", Refusal::Twice("a".to_owned())),
            ("{\"a\":\"hunter2\",\"\\u0061\":\"x\"}", Refusal::Twice("a".to_owned())),
            ("{\"a\":{\"hunter2\":\"x\"}}", not("a", "an object")),
            ("{\"a\":[\"hunter2\"]}", not("a", "a list")),
            ("{\"x\":\"y\",\"a\":12}", not("a", "a number")),
            ("{\"a\":true}", not("a", "true or false")),
            ("{\"a\":null}", not("a", "null")),
            ("{\"a b\":\"hunter2\"}", Refusal::Key("a b".to_owned())),
            ("{\"\":\"hunter2\"}", Refusal::Key(String::new())),
            ("{\"a\":\"hunter2\\udead\"}", Refusal::Escape("a".to_owned())),
            ("{\"a\":\"hunter2\" \"b\":\"x\"}", Refusal::Syntax { line: 1, column: 16 }),
            ("{\"a\":\"hunter2", Refusal::Syntax { line: 1, column: 13 }),
        ] {
            assert_eq!(refusal(text), why, "{text}");
            assert!(!Error::from(why).to_string().contains("hunter"), "{text}");
        }
        assert_eq!(Secrets::parse(Zeroizing::new(vec![0xff])).err().unwrap(), Refusal::NotText);
    }

    #[test]
    fn two_hundred_and_fifty_six_kibibytes_are_the_limit() {
        let of = |length: usize| format!("{{\"k\":\"{}\"}}", "v".repeat(length));
        assert!(parse(&of(MAX_TOTAL - 1)).is_ok());
        assert_eq!(refusal(&of(MAX_TOTAL)), Refusal::TooMuch(MAX_TOTAL + 1));
    }

    proptest! {
        #[test]
        fn any_flat_object_reads_back(entries in prop::collection::btree_map("[A-Za-z0-9_.-]{1,9}", any::<String>(), 0..8)) {
            let text = serde_json::to_string_pretty(&entries).unwrap();
            let all = parse(&text).unwrap().render(|_| true);
            let read: BTreeMap<String, String> = serde_json::from_slice(&all).unwrap();
            prop_assert_eq!(read, entries);
        }

        #[test]
        fn any_bytes_are_refused_or_read_as_serde_reads_them(bytes: Vec<u8>) {
            if let Ok(secrets) = Secrets::parse(Zeroizing::new(bytes.clone())) {
                let read: BTreeMap<String, String> = serde_json::from_slice(&bytes).unwrap();
                prop_assert_eq!(secrets.count() as usize, read.len());
            }
        }
    }
}
