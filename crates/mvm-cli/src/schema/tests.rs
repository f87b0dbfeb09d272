//! The schemas against documents. `tests/e2e/lib/fits.py` does the same to what commands print.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]

use serde_json::{Map, Value, json};

use super::{Definitions, Described, of_command};

/// Where a document does not fit a schema of the kind that is made here; nothing when it fits.
fn check(schema: &Value, document: &Value) -> Result<(), String> {
    let none = Map::new();
    let definitions = schema.get("$defs").and_then(Value::as_object).unwrap_or(&none);
    fits(schema, document, definitions, "$")
}

fn fits(schema: &Value, value: &Value, definitions: &Definitions, at: &str) -> Result<(), String> {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let name = name.trim_start_matches("#/$defs/");
        let target = definitions.get(name).ok_or(format!("{at}: no definition {name}"))?;
        return fits(target, value, definitions, at);
    }
    if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
        let mut why = Vec::new();
        for choice in choices {
            match fits(choice, value, definitions, at) {
                Ok(()) => return Ok(()),
                Err(reason) => why.push(reason),
            }
        }
        return Err(format!("{at}: fits none: {}", why.join("; ")));
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array)
        && !words.contains(value)
    {
        return Err(format!("{at}: {value} is none of {words:?}"));
    }
    let kinds: Vec<&str> = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return Err(format!("{at}: the schema has no type")),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is_integral = kind == "integer" && kinds.contains(&"number");
    if !kinds.contains(&kind) && !is_integral {
        return Err(format!("{at}: {value} is no {kinds:?}"));
    }
    match value {
        Value::Array(items) => {
            let item = schema.get("items").ok_or(format!("{at}: no schema of items"))?;
            let mut all = items.iter().enumerate();
            all.try_for_each(|(index, one)| fits(item, one, definitions, &format!("{at}[{index}]")))
        }
        Value::Object(fields) => object(schema, fields, definitions, at),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn object(
    schema: &Value,
    fields: &Map<String, Value>,
    definitions: &Definitions,
    at: &str,
) -> Result<(), String> {
    let none = Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        let name = name.as_str().unwrap_or_default();
        if !fields.contains_key(name) {
            return Err(format!("{at}: {name} is missing"));
        }
    }
    for (name, value) in fields {
        let at = format!("{at}.{name}");
        match (known.get(name), schema.get("additionalProperties")) {
            (Some(schema), _) => fits(schema, value, definitions, &at)?,
            (None, Some(Value::Bool(false))) => return Err(format!("{at}: unknown")),
            (None, Some(schema)) => fits(schema, value, definitions, &at)?,
            (None, None) => {}
        }
    }
    Ok(())
}

fn schema_of<T: Described>() -> Value {
    let mut definitions = Definitions::new();
    let mut schema = T::schema(&mut definitions);
    schema["$defs"] = Value::Object(definitions);
    schema
}

fn described<T: Described + serde::Serialize>(value: &T) {
    let document = serde_json::to_value(value).unwrap();
    check(&schema_of::<T>(), &document).unwrap();
}

#[test]
fn what_the_types_print_fits_their_schemas() {
    described(&mvm::Outcome::default());
    described(&mvm::Preview::default());
    described(&mvm::NodeFacts::default());
    described(&mvm::GuestMetrics::default());
    described(&mvm::GroupStats::default());
    described(&mvm::Usage::default());
    described(&mvm::Quotas::default());
    described(&mvm::Logs::default());
    described(&mvm::Source::Flake("github:a/b".to_owned()));
    described(&mvm::Actor::Uid(7));
    described(&mvm::Error::new(mvm::ErrorKind::Integrity, "x").hint("y"));
    described(&mvm::Network {
        tenant: "acme".parse().unwrap(),
        net: mvm::NetId(3),
        subnet: "10.240.3.0/24".parse().unwrap(),
    });
}

#[test]
fn a_document_with_another_field_or_kind_does_not_fit() {
    let schema = of_command("instance-logs").unwrap();
    assert!(check(&schema, &json!({ "console": ["x"], "vmm": [], "shim": [] })).is_ok());
    assert!(
        check(
            &schema,
            &json!({ "error": {
        "kind": "not_found", "message": "m", "causes": [], "hints": [],
    } })
        )
        .is_ok()
    );
    for wrong in [
        json!({ "console": ["x"], "shim": [] }),
        json!({ "console": ["x"], "vmm": [], "shim": [], "more": 1 }),
        json!({ "console": [1], "vmm": [], "shim": [] }),
        json!([]),
    ] {
        assert!(check(&schema, &wrong).is_err(), "{wrong}");
    }
}
