//! What becomes of sample calls: which would go elsewhere, and which would be treated differently.

use proxy::explain::{Call, View};
use serde_json::{Value, json};

use crate::diff::samples::Sample;
use crate::flow::flow;

/// What became of all samples.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Calls that were followed.
    pub(crate) all: usize,
    /// Those to which the change makes a difference.
    pub(crate) touched: Vec<Touched>,
}

/// A call that is treated differently.
#[derive(Debug)]
pub(crate) struct Touched {
    pub(crate) call: Sample,
    /// It goes to other endpoints, or to the same in other shares.
    pub(crate) elsewhere: bool,
    /// What differs: what it is about, what it was, what it would be.
    pub(crate) differences: Vec<(String, String, String)>,
}

impl Touched {
    pub(crate) fn json(&self) -> Value {
        let differences: Vec<Value> = self
            .differences
            .iter()
            .map(|(what, old, new)| json!({"what": what, "old": old, "new": new}))
            .collect();
        json!({"call": self.call.text(), "elsewhere": self.elsewhere, "differences": differences})
    }
}

/// Follows every sample through both meshes.
pub(crate) fn compare(old: &View, new: &View, samples: &[Sample]) -> Result<Followed, String> {
    let mut touched = Vec::new();
    for sample in samples {
        let call = Call::new(&sample.authority, &sample.method, &sample.headers)?;
        let (before, after) = (old.explain(&call), new.explain(&call));
        let way = (way(&before), way(&after));
        let elsewhere = way.0 != way.1;
        let mut differences = Vec::new();
        if elsewhere {
            differences.push(("goes to".to_owned(), way.0, way.1));
        } else if before["refused"].is_null() {
            let both = treatment(&before).into_iter().zip(treatment(&after));
            differences.extend(both.filter(|(old, new)| old != new).map(|(old, new)| (old.0, old.1, new.1)));
        }
        if !differences.is_empty() {
            touched.push(Touched { call: sample.clone(), elsewhere, differences });
        }
    }
    Ok(Followed { all: samples.len(), touched })
}

/// Where a call goes, in words: the backends with their shares, or why it is refused.
fn way(answer: &Value) -> String {
    let refused = &answer["refused"];
    if !refused.is_null() {
        let word = |key: &str| refused[key].as_str().unwrap_or_default().to_owned();
        return format!("{} ({})", word("code"), word("message"));
    }
    let backends = answer["backends"].as_array().into_iter().flatten();
    let used = backends.filter(|backend| backend["weight"] != 0);
    let mut said: Vec<String> = used.map(backend).collect();
    // In which order backends stand makes no difference.
    said.sort_unstable();
    said.join(", ")
}

fn backend(backend: &Value) -> String {
    let labels = match backend["labels"].as_object() {
        Some(labels) if !labels.is_empty() => format!(" {}", flow(&backend["labels"])),
        _ => String::new(),
    };
    let name = backend["service"].as_str().unwrap_or_default();
    let none = if backend["endpoints"].as_array().is_some_and(Vec::is_empty) { " (no endpoint)" } else { "" };
    let share = (backend["share"].as_f64().unwrap_or_default() * 1_000.0).round() / 10.0;
    match share {
        100.0 => format!("{name}{labels}{none}"),
        share => format!("{share}% {name}{labels}{none}"),
    }
}

/// What holds for a call, in a fixed order.
fn treatment(answer: &Value) -> Vec<(String, String)> {
    let value = |block: &str| {
        let policies = answer["policies"].as_array().into_iter().flatten();
        let found =
            policies.filter(|policy| policy["block"] == block).map(|policy| flow(&policy["value"])).next();
        found.unwrap_or_else(|| "-".to_owned())
    };
    let mut said: Vec<(String, String)> = ["deadline", "stream", "headers", "retries", "hedging", "faults"]
        .map(|it| (it.to_owned(), value(it)))
        .into();
    said.push(("idempotent".to_owned(), flow(&answer["idempotent"])));
    let of_backends = |block: &str| {
        let backends = answer["backends"].as_array().into_iter().flatten();
        let mut each: Vec<String> = backends.map(|backend| flow(&backend["policies"][block])).collect();
        // In which order a route names its backends says nothing of the policies.
        each.sort_unstable();
        each.dedup();
        each.join(", ")
    };
    for block in ["balancing", "retry_budget", "retry_throttling", "outliers", "health", "upstream"] {
        said.push((block.to_owned(), of_backends(block)));
    }
    said
}
