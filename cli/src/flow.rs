//! JSON on one line, as YAML writes it: `{default: 1s, max: 5s}`.

use serde_json::Value;

/// A value; `null` is a dash.
pub(crate) fn flow(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => word(text),
        Value::Array(list) => format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pairs: Vec<String> =
                map.iter().map(|(key, value)| format!("{}: {}", word(key), flow(value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        other => other.to_string(),
    }
}

/// A text, in quotes where it would mean something else without.
fn word(text: &str) -> String {
    let special = |c: char| ",[]{}#\"'\n".contains(c);
    let reads_otherwise = text.is_empty() || text.contains(": ") || text.trim() != text;
    let not_a_text = matches!(text, "true" | "false" | "null" | "~" | "-") || text.parse::<f64>().is_ok();
    match text.contains(special) || reads_otherwise || not_a_text {
        true => format!("{text:?}"),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_block_is_written_as_yaml_has_it() {
        let block =
            json!({"default": "1s", "codes": ["UNAVAILABLE"], "set": {"x": "1", "y": "a, b"}, "n": 3});
        assert_eq!(flow(&block), r#"{codes: [UNAVAILABLE], default: 1s, n: 3, set: {x: "1", y: "a, b"}}"#);
        assert_eq!([flow(&Value::Null), flow(&json!(""))], ["-", "\"\""]);
    }
}
