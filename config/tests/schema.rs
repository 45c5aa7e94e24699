//! The table of keys, the schema, the walker, the model and the documentation agree, key by key.
//!
//! `good/every_key.*.yaml` hold every key there is, in JSON (which is YAML), so that a test can change one.

use std::fs;
use std::path::Path;

use outrigger_config::{Faults, Source, leaf_keys, parse_control, parse_mesh, parse_sidecar, schema};
use regex::Regex;
use serde_json::{Value, json};

/// A way into a JSON document.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    Index(usize),
}

/// `hedged`: the mesh, with the one block that cannot stand beside the others. `controlled`: the sidecar, with what cannot
/// stand beside a mesh file. `issued`: the same with an identity that the control plane signs; `svid`: with one of SPIFFE's
/// Workload API.
fn document(kind: &str) -> Value {
    if kind == "controlled" {
        let mut sidecar = document("sidecar");
        sidecar["mesh"] = json!({
            "control": ["https://outrigger-control:15012", "http://127.0.0.1:1"],
            "bundle": "roots.crt",
            "cache": "cache",
            "cache_max_age": "1h",
            "empty_grace": "1s",
            "protocol": "sotw",
            "register": {"address": "10.0.0.8:15006"},
        });
        return sidecar;
    }
    if kind == "issued" {
        let mut sidecar = document("controlled");
        sidecar["identity"] = json!({"control": true, "token": "token", "cache": "identity"});
        return sidecar;
    }
    if kind == "svid" {
        let mut sidecar = document("sidecar");
        sidecar["identity"] = json!({"workload_api": "unix:/run/spire/agent.sock"});
        return sidecar;
    }
    if kind == "hedged" {
        let mut mesh = document("mesh");
        let hedging = mesh["services"][0]["hedging"].clone();
        let Value::Object(defaults) = &mut mesh["defaults"] else { unreachable!() };
        defaults.remove("retries");
        defaults.insert("hedging".to_owned(), hedging);
        return mesh;
    }
    let file = format!("tests/good/every_key.{kind}.yaml");
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What the parser makes of a document: the model as text.
fn parse(kind: &str, document: &Value) -> Result<String, Faults> {
    let text = document.to_string();
    let source = Source { name: "changed.yaml", text: &text };
    match kind {
        "sidecar" | "controlled" | "issued" | "svid" => {
            parse_sidecar(source).map(|model| format!("{model:?}"))
        }
        "control" => parse_control(source).map(|model| format!("{model:?}")),
        _ => parse_mesh(source).map(|model| format!("{model:?}")),
    }
}

/// The name of the schema of a document.
fn schema_of(kind: &str) -> &str {
    match kind {
        "hedged" => "mesh",
        "controlled" | "issued" | "svid" => "sidecar",
        kind => kind,
    }
}

/// The places of a leaf key in the document that holds every key: its kind, and the ways to it.
fn places(leaf: &str) -> (String, Vec<Vec<Step>>) {
    let spaced = leaf.replace("[]", ".[]");
    let mut segments = spaced.split('.');
    let kind = segments.next().unwrap();
    let kind = match kind {
        _ if leaf.starts_with("mesh.defaults.hedging") => "hedged",
        _ if leaf == "sidecar.identity.workload_api" => "svid",
        _ if ["control", "token", "cache"].iter().any(|key| leaf == format!("sidecar.identity.{key}")) => {
            "issued"
        }
        _ if leaf.starts_with("sidecar.mesh.") && leaf != "sidecar.mesh.file" => "controlled",
        kind => kind,
    };
    let kind = kind.to_owned();
    let mut ways = vec![(document(&kind), Vec::new())];
    for segment in segments {
        let mut next = Vec::new();
        for (value, way) in ways {
            let mut go = |value: &Value, step: Step| {
                let mut way: Vec<Step> = way.clone();
                way.push(step);
                next.push((value.clone(), way));
            };
            match (segment, &value) {
                ("[]", Value::Array(items)) => {
                    items.iter().enumerate().for_each(|(i, item)| go(item, Step::Index(i)));
                }
                ("*", Value::Object(map)) => {
                    map.iter().for_each(|(key, item)| go(item, Step::Key(key.clone())));
                }
                (key, Value::Object(map)) => {
                    map.get(key).into_iter().for_each(|item| go(item, Step::Key(key.to_owned())));
                }
                _ => {}
            }
        }
        ways = next;
    }
    let single = |value: &Value| !value.is_object() && !value.is_array();
    (kind, ways.into_iter().filter(|(value, _)| single(value)).map(|(_, way)| way).collect())
}

fn at<'a>(document: &'a mut Value, way: &[Step]) -> &'a mut Value {
    way.iter().fold(document, |value, step| match step {
        Step::Key(key) => &mut value[key],
        Step::Index(index) => &mut value[index],
    })
}

fn path(way: &[Step]) -> String {
    let mut path = String::new();
    for step in way {
        match step {
            Step::Index(index) => path += &format!("[{index}]"),
            Step::Key(key) if key.contains(['/', '.']) => path += &format!("[{key:?}]"),
            Step::Key(key) if path.is_empty() => path += key,
            Step::Key(key) => path += &format!(".{key}"),
        }
    }
    path
}

#[test]
fn every_leaf_key_stands_in_the_example_of_every_key() {
    let without: Vec<String> = leaf_keys().into_iter().filter(|leaf| places(leaf).1.is_empty()).collect();
    assert!(without.is_empty(), "{without:#?}");
}

#[test]
fn every_leaf_key_that_is_removed_changes_the_model_or_is_a_fault() {
    for leaf in leaf_keys() {
        let (kind, ways) = places(&leaf);
        let before = parse(&kind, &document(&kind)).unwrap();
        for way in ways {
            let mut changed = document(&kind);
            let (last, around) = way.split_last().unwrap();
            match (last, at(&mut changed, around)) {
                (Step::Key(key), Value::Object(map)) => drop(map.remove(key)),
                (Step::Index(index), Value::Array(items)) => drop(items.remove(*index)),
                _ => unreachable!(),
            }
            // The example has no fault, so one that appears is about the key too.
            if let Ok(after) = parse(&kind, &changed) {
                assert_ne!(before, after, "nothing reads {}", path(&way));
            }
        }
    }
}

#[test]
fn every_leaf_key_of_the_wrong_kind_is_a_fault_at_its_path() {
    for leaf in leaf_keys() {
        let (kind, ways) = places(&leaf);
        for way in ways {
            let mut changed = document(&kind);
            *at(&mut changed, &way) = json!([[]]);
            let faults = parse(&kind, &changed).unwrap_err();
            let found = faults.told().iter().find(|fault| fault.path == path(&way));
            let fault = found.unwrap_or_else(|| panic!("no fault at {}: {faults}", path(&way)));
            assert!(fault.problem.starts_with("expected "), "{fault}");
        }
    }
}

#[test]
fn every_key_that_is_misspelled_is_a_fault_that_names_what_was_meant() {
    for leaf in leaf_keys() {
        let (kind, ways) = places(&leaf);
        let named =
            leaf.rsplit('.').map(|name| name.trim_end_matches("[]")).find(|name| *name != "*").unwrap();
        for mut way in ways {
            while way.last() != Some(&Step::Key(named.to_owned())) {
                way.pop();
            }
            way.pop();
            let mut changed = document(&kind);
            let Value::Object(map) = at(&mut changed, &way) else { unreachable!() };
            let value = map.remove(named).unwrap();
            let slip = format!("{named}x");
            map.insert(slip.clone(), value);
            let faults = parse(&kind, &changed).unwrap_err();
            let problem = format!("unknown key `{slip}`");
            let found = faults.told().iter().find(|fault| fault.problem == problem);
            let fault = found.unwrap_or_else(|| panic!("{leaf}: {faults}"));
            assert_eq!(fault.hint.as_deref(), Some(format!("did you mean `{named}`?").as_str()));
        }
    }
}

#[test]
fn the_schema_has_the_leaf_keys_that_the_walker_takes() {
    let schema = schema();
    let mut found = Vec::new();
    for kind in ["sidecar", "mesh", "control"] {
        leaves(&schema["$defs"][kind], kind.to_owned(), &mut found);
    }
    let mut expected = leaf_keys();
    found.sort();
    found.dedup();
    expected.sort();
    assert_eq!(found, expected);
}

fn leaves(schema: &Value, path: String, found: &mut Vec<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        properties.iter().for_each(|(key, value)| leaves(value, format!("{path}.{key}"), found));
    } else if schema["type"] == "array" {
        leaves(&schema["items"], format!("{path}[]"), found);
    } else if schema["additionalProperties"].is_object() {
        leaves(&schema["additionalProperties"], format!("{path}.*"), found);
    } else if let Some(choices) = schema["oneOf"].as_array() {
        choices.iter().for_each(|choice| leaves(choice, path.clone(), found));
    } else {
        found.push(path);
    }
}

#[test]
fn the_schema_takes_the_example_and_refuses_it_with_a_value_of_the_wrong_kind() {
    let schema = schema();
    for kind in ["sidecar", "mesh", "control"] {
        assert!(accepts(&schema["$defs"][kind], &document(kind)), "{kind}");
    }
    for leaf in leaf_keys() {
        let (kind, ways) = places(&leaf);
        let mut changed = document(&kind);
        *at(&mut changed, &ways[0]) = json!([[]]);
        assert!(!accepts(&schema["$defs"][schema_of(&kind)], &changed), "{leaf}");
    }
}

/// As much of JSON Schema as ours uses.
fn accepts(schema: &Value, value: &Value) -> bool {
    if let Some(choices) = schema["oneOf"].as_array() {
        return choices.iter().filter(|choice| accepts(choice, value)).count() == 1;
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.contains(value);
    }
    if let Some(word) = schema.get("const") {
        return word == value;
    }
    match (schema["type"].as_str().unwrap(), value) {
        ("boolean", Value::Bool(_)) => true,
        ("integer", Value::Number(number)) => number.as_u64().is_some_and(|number| {
            (schema["minimum"].as_u64().unwrap()..=schema["maximum"].as_u64().unwrap()).contains(&number)
        }),
        ("number", Value::Number(number)) => number.as_f64().is_some_and(|number| {
            (schema["minimum"].as_f64().unwrap()..=schema["maximum"].as_f64().unwrap()).contains(&number)
        }),
        ("string", Value::String(text)) => {
            Regex::new(schema["pattern"].as_str().unwrap()).unwrap().is_match(text)
        }
        ("array", Value::Array(items)) => items.iter().all(|item| accepts(&schema["items"], item)),
        ("object", Value::Object(map)) => match schema.get("properties") {
            Some(properties) => {
                let required = schema["required"].as_array().unwrap();
                required.iter().all(|key| map.contains_key(key.as_str().unwrap()))
                    && map.iter().all(|(key, item)| {
                        properties.get(key).is_some_and(|property| accepts(property, item))
                    })
            }
            None => map.iter().all(|(key, item)| {
                accepts(&schema["propertyNames"], &json!(key))
                    && accepts(&schema["additionalProperties"], item)
            }),
        },
        _ => false,
    }
}

#[test]
fn every_leaf_key_is_in_the_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    let reference = fs::read_to_string(path).unwrap();
    let without: Vec<String> =
        leaf_keys().into_iter().filter(|leaf| !reference.contains(&format!("`{leaf}`"))).collect();
    assert!(without.is_empty(), "{without:#?}");
}
