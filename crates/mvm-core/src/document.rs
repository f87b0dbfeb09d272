//! Reading a document that a person wrote: every finding at once, each with its place.
//!
//! A reader asks for what it knows and goes on after a finding, so that one pass tells all that is
//! wrong. It refuses to know files and formats: JSON and TOML both arrive as a [`Value`].

use std::{fmt, str::FromStr};

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind};

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Where: `routes[1].match_rule.port`.
    pub path: String,
    /// What, for people.
    pub problem: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

/// All that was found wrong so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings(Vec<Wrong>);

impl Findings {
    /// Nothing found yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a finding.
    pub fn add(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.0.push(Wrong { path: path.into(), problem: problem.into() });
    }

    /// What was found, in the order of the document.
    #[must_use]
    pub fn all(&self) -> &[Wrong] {
        &self.0
    }

    /// Goes on when nothing is wrong.
    ///
    /// # Errors
    /// `Invalid`, with one cause for each finding.
    pub fn settle(self, what: &str) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let count = self.0.len();
        let noun = if count == 1 { "finding" } else { "findings" };
        let mut error = Error::new(ErrorKind::Invalid, format!("{what} has {count} {noun}"));
        error.causes = self.0.iter().map(ToString::to_string).collect();
        Err(error)
    }

    /// The object at `path`; keys other than `keys` are found wrong.
    pub fn object<'v>(
        &mut self,
        value: &'v Value,
        path: &str,
        keys: &[&str],
    ) -> Option<&'v Map<String, Value>> {
        let Value::Object(map) = value else {
            self.add(path, format!("must be an object, not {}", kind(value)));
            return None;
        };
        for key in map.keys().filter(|key| !keys.contains(&key.as_str())) {
            let near = nearest(key, keys).map(|near| format!(", did you mean {near}?"));
            let problem = format!("unknown field{}", near.unwrap_or_default());
            self.add(below(path, key), problem);
        }
        Some(map)
    }

    /// The elements of the list at `path`.
    pub fn list<'v>(&mut self, value: &'v Value, path: &str) -> Option<&'v [Value]> {
        let Value::Array(list) = value else {
            self.add(path, format!("must be a list, not {}", kind(value)));
            return None;
        };
        Some(list)
    }

    /// A field that must be there.
    pub fn needed<'v>(
        &mut self,
        map: &'v Map<String, Value>,
        path: &str,
        key: &str,
    ) -> Option<&'v Value> {
        let value = present(map, key);
        if value.is_none() {
            self.add(below(path, key), "is missing");
        }
        value
    }

    /// The text at `path`.
    pub fn text<'v>(&mut self, value: &'v Value, path: &str) -> Option<&'v str> {
        let text = value.as_str();
        if text.is_none() {
            self.add(path, format!("must be a text, not {}", kind(value)));
        }
        text
    }

    /// The text at `path`, as what it means.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(
        &mut self,
        value: &Value,
        path: &str,
    ) -> Option<T> {
        match self.text(value, path)?.parse() {
            Ok(parsed) => Some(parsed),
            Err(error) => {
                self.add(path, error.to_string());
                None
            }
        }
    }

    /// The whole number at `path`, within `range`.
    pub fn number<T>(
        &mut self,
        value: &Value,
        path: &str,
        range: std::ops::RangeInclusive<T>,
    ) -> Option<T>
    where
        T: TryFrom<u64> + PartialOrd + fmt::Display,
    {
        let number = value.as_u64().and_then(|number| T::try_from(number).ok());
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            let (low, high) = (range.start(), range.end());
            self.add(path, format!("must be a whole number from {low} to {high}"));
        }
        number
    }

    /// The truth value at `path`.
    pub fn flag(&mut self, value: &Value, path: &str) -> Option<bool> {
        let flag = value.as_bool();
        if flag.is_none() {
            self.add(path, format!("must be true or false, not {}", kind(value)));
        }
        flag
    }
}

/// A field's value; `null` counts as absent.
#[must_use]
pub fn present<'v>(map: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
    map.get(key).filter(|value| !value.is_null())
}

/// The path of a field of the object at `path`.
#[must_use]
pub fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The path of an element of the list at `path`.
#[must_use]
pub fn element(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The key that was probably meant: at most two letters away, or a third of its length, or begun.
/// The word among `keys` that was probably meant by `key`, if one is close.
#[must_use]
pub fn nearest<'k>(key: &str, keys: &[&'k str]) -> Option<&'k str> {
    let close = keys.iter().map(|known| (distance(key, known), *known)).min()?;
    let is_begun = key.len() > 2 && close.1.starts_with(key);
    (is_begun || close.0 <= 2.max(key.len() / 3)).then_some(close.1)
}

/// How many letters must be changed, added or left out to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut diagonal = index;
        let mut left = index + 1;
        let mut next = vec![left];
        for (above, theirs) in row.iter().skip(1).zip(&other) {
            let changed = diagonal + usize::from(letter != *theirs);
            left = changed.min(above + 1).min(left + 1);
            next.push(left);
            diagonal = *above;
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn every_finding_has_its_place_and_an_unknown_key_its_neighbour() {
        let value = serde_json::json!({"prot": 1, "zzzzzz": 2, "list": [true, "x"]});
        let mut findings = Findings::new();
        let map = findings.object(&value, "top", &["port", "list"]).unwrap();
        assert_eq!(findings.needed(map, "top", "port"), None);
        let list = findings.list(map.get("list").unwrap(), "top.list").unwrap();
        for (index, value) in list.iter().enumerate() {
            findings.number::<u16>(value, &element("top.list", index), 1..=9);
        }
        let error = findings.settle("the document").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert_eq!(
            error.causes,
            [
                "top.prot: unknown field, did you mean port?",
                "top.zzzzzz: unknown field",
                "top.port: is missing",
                "top.list[0]: must be a whole number from 1 to 9",
                "top.list[1]: must be a whole number from 1 to 9",
            ]
        );
    }

    #[test]
    fn the_distance_of_words_counts_letters() {
        for (one, other, far) in [("", "abc", 3), ("port", "prot", 2), ("same", "same", 0)] {
            assert_eq!(distance(one, other), far, "{one} {other}");
        }
    }
}
