//! JSON Schemas of what `--json` prints, from the types that are printed.
//!
//! A type says what its fields are called and mean; their types are taken from the code, and a field
//! that is forgotten does not compile ([`describe`]). [`of_command`] has one document per command:
//! its result, its plan where it takes `--dry-run`, and the error that either can be instead.
//!
//! It refuses to know values: that what is printed fits is checked by tests, natively and on what
//! real commands print.

mod core;
mod disk;
mod fleet;
mod machine;
mod net;
mod policy;
mod record;
mod results;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The schemas of named types, by name.
pub(crate) type Definitions = Map<String, Value>;

/// A type that `--json` can print.
pub(crate) trait Described {
    /// Its schema; named types put themselves into the definitions and are referred to.
    fn schema(definitions: &mut Definitions) -> Value;
}

/// Makes a struct [`Described`]: each field with its meaning. A field that is left out when it is
/// empty stands behind `or absent`.
macro_rules! describe {
    ($type:ty, $name:literal, $about:literal, {
        $($field:ident: $text:literal,)*
    } $(or absent { $($optional:ident: $optional_text:literal,)* })?) => {
        impl $crate::schema::Described for $type {
            fn schema(definitions: &mut $crate::schema::Definitions) -> ::serde_json::Value {
                // Does not compile when a field is missing here.
                let _: fn(&Self) = |one| {
                    let Self { $($field: _,)* $($($optional: _,)*)? } = one;
                };
                $crate::schema::named(definitions, $name, |definitions| {
                    let mut fields = $crate::schema::Fields::new($about);
                    $(fields.add(
                        stringify!($field),
                        $text,
                        $crate::schema::of_field(|one: &Self| &one.$field, definitions),
                    );)*
                    $($(fields.add_optional(
                        stringify!($optional),
                        $optional_text,
                        $crate::schema::of_field(|one: &Self| &one.$optional, definitions),
                    );)*)?
                    fields.finish()
                })
            }
        }
    };
}

/// Makes an enum of words [`Described`]; a variant that is forgotten does not compile.
macro_rules! words {
    ($type:ty, $name:literal, $about:literal, [$($variant:ident),* $(,)?]) => {
        impl $crate::schema::Described for $type {
            fn schema(definitions: &mut $crate::schema::Definitions) -> ::serde_json::Value {
                let _: fn(&Self) = |one| match one { $(Self::$variant => {})* };
                $crate::schema::named(definitions, $name, |_| {
                    let all = [$(Self::$variant),*];
                    let words: Vec<_> =
                        all.iter().filter_map(|one| ::serde_json::to_value(one).ok()).collect();
                    ::serde_json::json!({ "description": $about, "type": "string", "enum": words })
                })
            }
        }
    };
}

/// Makes a type that prints as one text or number [`Described`].
macro_rules! leaf {
    ($($type:ty => $schema:tt;)*) => {
        $(impl $crate::schema::Described for $type {
            fn schema(_: &mut $crate::schema::Definitions) -> ::serde_json::Value {
                ::serde_json::json!($schema)
            }
        })*
    };
}

pub(crate) use {describe, leaf, words};

/// The schema of a field, by how it is reached.
pub(crate) fn of_field<O, T: Described>(_: fn(&O) -> &T, definitions: &mut Definitions) -> Value {
    T::schema(definitions)
}

/// Puts a type into the definitions, once, and refers to it.
pub(crate) fn named(
    definitions: &mut Definitions,
    name: &str,
    make: impl FnOnce(&mut Definitions) -> Value,
) -> Value {
    if !definitions.contains_key(name) {
        definitions.insert(name.to_owned(), Value::Null);
        let made = make(definitions);
        definitions.insert(name.to_owned(), made);
    }
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// The fields of an object in the making.
pub(crate) struct Fields {
    about: &'static str,
    properties: Map<String, Value>,
    required: Vec<Value>,
}

impl Fields {
    pub(crate) fn new(about: &'static str) -> Self {
        Self { about, properties: Map::new(), required: Vec::new() }
    }

    pub(crate) fn add(&mut self, name: &str, text: &str, schema: Value) {
        self.required.push(Value::from(name));
        self.add_optional(name, text, schema);
    }

    pub(crate) fn add_optional(&mut self, name: &str, text: &str, mut schema: Value) {
        if let Some(fields) = schema.as_object_mut() {
            fields.insert("description".to_owned(), Value::from(text));
        }
        self.properties.insert(name.to_owned(), schema);
    }

    /// Takes the fields of another object, which are printed among these.
    pub(crate) fn flatten(&mut self, reference: &Value, definitions: &mut Definitions) {
        let name = reference.get("$ref").and_then(Value::as_str).unwrap_or_default();
        let name = name.rsplit('/').next().unwrap_or_default();
        let Some(other) = definitions.remove(name) else { return };
        if let Some(properties) = other.get("properties").and_then(Value::as_object) {
            self.properties.extend(properties.clone());
        }
        if let Some(required) = other.get("required").and_then(Value::as_array) {
            self.required.extend(required.iter().cloned());
        }
    }

    pub(crate) fn finish(self) -> Value {
        json!({
            "description": self.about,
            "type": "object",
            "properties": self.properties,
            "required": self.required,
            "additionalProperties": false,
        })
    }
}

impl<T: Described> Described for Option<T> {
    fn schema(definitions: &mut Definitions) -> Value {
        json!({ "anyOf": [T::schema(definitions), { "type": "null" }] })
    }
}

impl<T: Described> Described for Vec<T> {
    fn schema(definitions: &mut Definitions) -> Value {
        json!({ "type": "array", "items": T::schema(definitions) })
    }
}

impl<T: Described> Described for Box<T> {
    fn schema(definitions: &mut Definitions) -> Value {
        T::schema(definitions)
    }
}

impl<T: Described, const N: usize> Described for [T; N] {
    fn schema(definitions: &mut Definitions) -> Value {
        json!({ "type": "array", "items": T::schema(definitions), "minItems": N, "maxItems": N })
    }
}

impl<K, T: Described> Described for BTreeMap<K, T> {
    fn schema(definitions: &mut Definitions) -> Value {
        json!({ "type": "object", "additionalProperties": T::schema(definitions) })
    }
}

leaf! {
    String => { "type": "string" };
    &'static str => { "type": "string" };
    std::path::PathBuf => { "type": "string" };
    bool => { "type": "boolean" };
    u8 => { "type": "integer", "minimum": 0 };
    u16 => { "type": "integer", "minimum": 0 };
    u32 => { "type": "integer", "minimum": 0 };
    u64 => { "type": "integer", "minimum": 0 };
    usize => { "type": "integer", "minimum": 0 };
    f64 => { "type": "number" };
}

/// What a command prints with `--json`.
struct Shape {
    result: fn(&mut Definitions) -> Value,
    /// What it prints with `--dry-run` instead, if it changes something.
    plan: Option<fn(&mut Definitions) -> Value>,
}

/// The schema of a command, named like its file: `pool-scale`; none for what prints no document.
pub(crate) fn of_command(name: &str) -> Option<Value> {
    let Shape { result, plan } = results::shape(name)?;
    let mut definitions = Definitions::new();
    let mut shapes = vec![result(&mut definitions)];
    shapes.extend(plan.map(|plan| plan(&mut definitions)));
    shapes.push(results::Failure::schema(&mut definitions));
    let command = name.replace('-', " ");
    Some(json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("mvm --json {command}"),
        "anyOf": shapes,
        "$defs": definitions,
    }))
}
