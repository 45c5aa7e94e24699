//! One thing that differs.

use serde_json::{Value, json};

use crate::flow::flow;

/// Something of a service that is new, gone, or another.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// `NAME.NAMESPACE`; empty: of the mesh as a whole.
    pub(crate) service: String,
    /// What it is, such as `endpoint 10.0.0.1:50051` or `deadline`.
    pub(crate) what: String,
    /// What it was; `None`: it was not there.
    pub(crate) old: Option<Value>,
    /// What it would be; `None`: it would not be there.
    pub(crate) new: Option<Value>,
}

impl Change {
    /// A line: `+ what`, `- what` or `~ what: old -> new`.
    pub(crate) fn text(&self) -> String {
        let is_said =
            |value: &&Value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty());
        let all = |value: &Option<Value>| {
            value.as_ref().filter(is_said).map_or_else(String::new, |value| format!(": {}", flow(value)))
        };
        match (&self.old, &self.new) {
            (None, new) => format!("+ {}{}", self.what, all(new)),
            (old, None) => format!("- {}{}", self.what, all(old)),
            (Some(old), Some(new)) => format!("~ {}: {} -> {}", self.what, flow(old), flow(new)),
        }
    }

    /// The same for tools.
    pub(crate) fn json(&self) -> Value {
        let kind = match (&self.old, &self.new) {
            (None, _) => "added",
            (_, None) => "removed",
            _ => "changed",
        };
        json!({"service": self.service, "what": self.what, "change": kind, "old": self.old, "new": self.new})
    }
}

/// What differs between two values of one thing; `None`: nothing. Of two blocks only the keys that differ are told.
pub(crate) fn changed(service: &str, what: &str, old: Value, new: Value) -> Option<Change> {
    if old == new {
        return None;
    }
    let is_off = |value: &Value| value.is_null() || value.as_object().is_some_and(|map| map.is_empty());
    let (old, new) = match (is_off(&old), is_off(&new)) {
        (true, true) => return None,
        (true, false) => (None, Some(new)),
        (false, true) => (Some(old), None),
        (false, false) => {
            let (old, new) = trim(old, new);
            (Some(old), Some(new))
        }
    };
    Some(Change { service: service.to_owned(), what: what.to_owned(), old, new })
}

/// Leaves out what two mappings have in common.
fn trim(mut old: Value, mut new: Value) -> (Value, Value) {
    if let (Some(before), Some(after)) = (old.as_object_mut(), new.as_object_mut()) {
        let same: Vec<String> = before
            .iter()
            .filter(|(key, value)| after.get(*key) == Some(*value))
            .map(|(key, _)| key.clone())
            .collect();
        for key in same {
            before.remove(&key);
            after.remove(&key);
        }
    }
    (old, new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        let (old, new) = (json!({"max": "5s", "default": "1s"}), json!({"max": "3s", "default": "1s"}));
        let change = changed("a.b", "deadline", old, new).expect("a change");
        assert_eq!(change.text(), "~ deadline: {max: 5s} -> {max: 3s}");
        assert_eq!(changed("a.b", "deadline", json!({}), Value::Null), None);
        let begun = changed("a.b", "deadline", json!({}), json!({"max": "3s"})).expect("a change");
        assert_eq!(begun.text(), "+ deadline: {max: 3s}");
        let ended = changed("a.b", "ports", json!([1]), Value::Null).expect("a change");
        assert_eq!(ended.text(), "- ports: [1]");
    }
}
