//! A JSON document as YAML 1.2: the same values, in blocks.
//!
//! It writes what JSON can hold and nothing else. A text is quoted as in JSON, which YAML reads the
//! same way, unless it is a plain word that no reader takes for a number, a date or a truth value.

use serde_json::Value;

/// The document, with a line end.
pub(crate) fn document(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

/// A value whose lines begin at `depth`; what fits on the line goes there.
fn block(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (index, (name, value)) in fields.iter().enumerate() {
                indent(index, depth, out);
                out.push_str(&text(name));
                out.push(':');
                nested(value, depth + 1, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                indent(index, depth, out);
                out.push_str("- ");
                block(item, depth + 1, out);
            }
        }
        leaf @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_)
        | Value::Object(_)) => {
            out.push_str(&scalar(leaf));
            out.push('\n');
        }
    }
}

/// The first line of a block goes on where the cursor is.
fn indent(index: usize, depth: usize, out: &mut String) {
    if index > 0 || out.ends_with('\n') {
        out.push_str(&"  ".repeat(depth));
    }
}

fn nested(value: &Value, depth: usize, out: &mut String) {
    let is_block = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    };
    out.push(if is_block { '\n' } else { ' ' });
    block(value, depth, out);
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(content) => text(content),
        Value::Object(_) => "{}".to_owned(),
        Value::Array(_) => "[]".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn text(content: &str) -> String {
    const WORDS: [&str; 8] = ["null", "true", "false", "yes", "no", "on", "off", "y"];
    let is_plain = content.starts_with(|c: char| c.is_ascii_alphabetic())
        && content.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '/'))
        && !WORDS.contains(&content.to_ascii_lowercase().as_str())
        && !content.eq_ignore_ascii_case("n");
    if is_plain { content.to_owned() } else { Value::from(content).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_and_arrays_are_blocks_and_doubtful_words_are_quoted() {
        let value = json!({
            "state": "Running", "empty": [], "none": null, "n": 3, "subnet": "10.240.3.0/24",
            "list": [{ "a": "no", "b": { "c": 1 } }, ["x", []]], "text": "a: \"b\"\n",
        });
        let expected = r#"empty: []
list:
  - a: "no"
    b:
      c: 1
  - - x
    - []
"n": 3
none: null
state: Running
subnet: "10.240.3.0/24"
text: "a: \"b\"\n"
"#;
        assert_eq!(document(&value), expected);
        assert_eq!(document(&json!([])), "[]\n");
        assert_eq!(document(&json!("1e3")), "\"1e3\"\n");
    }
}
