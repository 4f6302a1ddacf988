//! JSON values as YAML: block style, strings quoted as JSON wherever a reader could take them for something else.

use serde_json::Value;
use std::fmt::Write as _;

/// One document, without a leading `---`.
pub fn render(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(&mut text, value, 0),
        Value::Array(items) if !items.is_empty() => block(&mut text, value, 0),
        other => {
            let _ = writeln!(text, "{}", scalar(other));
        }
    }
    text
}

fn block(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let _ = write!(text, "{indent}{}:", string(key));
                nested(text, value, depth);
            }
        }
        Value::Array(items) => {
            for item in items {
                if is_block(item) {
                    // The first line of the item follows the dash; the rest is indented under it.
                    let mut inner = String::new();
                    block(&mut inner, item, depth + 1);
                    let _ = write!(text, "{indent}- {}", inner.trim_start());
                } else {
                    let _ = writeln!(text, "{indent}- {}", scalar(item));
                }
            }
        }
        other => {
            let _ = writeln!(text, "{indent}{}", scalar(other));
        }
    }
}

fn nested(text: &mut String, value: &Value, depth: usize) {
    if is_block(value) {
        text.push('\n');
        block(text, value, depth + 1);
    } else {
        let _ = writeln!(text, " {}", scalar(value));
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::String(text) => string(text),
        other => other.to_string(),
    }
}

/// Plain only where no YAML version reads anything but this text.
fn string(text: &str) -> String {
    let starts_plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '/');
    let body_plain =
        text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ' ' | '_' | '-' | '.' | '/' | '+' | '(' | ')'));
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word));
    if starts_plain && body_plain && !reserved && !text.ends_with(' ') {
        text.to_owned()
    } else {
        Value::String(text.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_keep_their_type() {
        let value = json!({
            "a": "plain text", "b": "true", "c": "12", "d": "x: y", "e": null, "f": [], "g": {}, "h": 1.5,
            "i": "two\nlines", "j": "", "k": "-x", "l": true
        });
        let expected = "a: plain text\nb: \"true\"\nc: \"12\"\nd: \"x: y\"\ne: null\nf: []\ng: {}\nh: 1.5\n\
                        i: \"two\\nlines\"\nj: \"\"\nk: \"-x\"\nl: true\n";
        assert_eq!(render(&value), expected);
    }

    #[test]
    fn lists_of_objects_nest() {
        let value = json!({"jobs": [{"id": 1, "workers": ["w1", "w2"]}, {"id": 2, "workers": []}]});
        let expected = "jobs:\n  - id: 1\n    workers:\n      - w1\n      - w2\n  - id: 2\n    workers: []\n";
        assert_eq!(render(&value), expected);
    }

    #[test]
    fn an_empty_answer_is_still_a_document() {
        assert_eq!(render(&json!([])), "[]\n");
    }
}
