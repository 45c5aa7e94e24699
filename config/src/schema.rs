//! The JSON Schema of all files, and the list of their leaf keys, from the tables of keys.

use serde_json::{Value, json};

use crate::control_keys::CONTROL;
use crate::keys::{Kind, Object};
use crate::mesh_keys::MESH;
use crate::sidecar_keys::SIDECAR;

/// One JSON Schema (draft 2020-12) for all files, under `$defs` as `sidecar`, `mesh` and `control`.
///
/// It says what an editor can use: keys, kinds, ranges and forms. What concerns several keys at once (a
/// backend that no service matches) only [`crate::check()`] finds.
pub fn schema() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Outrigger: sidecar.yaml, mesh.yaml and control.yaml",
        "oneOf": [{"$ref": "#/$defs/sidecar"}, {"$ref": "#/$defs/mesh"}, {"$ref": "#/$defs/control"}],
        "$defs": {"sidecar": object(&SIDECAR), "mesh": object(&MESH), "control": object(&CONTROL)},
    })
}

/// Every leaf key of all files, in the order of the tables: `sidecar.limits.calls`,
/// `mesh.services[].routes[].match.headers[].exact`, with `*` for keys of the file's own, as in
/// `mesh.services[].methods.*.type`. Where a key takes a single value or a mapping, both are listed.
pub fn leaf_keys() -> Vec<String> {
    let mut leaves = Vec::new();
    object_leaves(&SIDECAR, "sidecar", &mut leaves);
    object_leaves(&MESH, "mesh", &mut leaves);
    object_leaves(&CONTROL, "control", &mut leaves);
    leaves
}

fn object_leaves(object: &Object, path: &str, leaves: &mut Vec<String>) {
    for key in object.keys {
        kind_leaves(&key.kind, format!("{path}.{}", key.name), leaves);
    }
}

fn kind_leaves(kind: &Kind, path: String, leaves: &mut Vec<String>) {
    match kind {
        Kind::Object(object) => object_leaves(object, &path, leaves),
        Kind::List(kind) => kind_leaves(kind, format!("{path}[]"), leaves),
        Kind::Map { value, .. } => kind_leaves(value, format!("{path}.*"), leaves),
        Kind::Either { short, long } => {
            kind_leaves(short, path.clone(), leaves);
            object_leaves(long, &path, leaves);
        }
        _ => leaves.push(path),
    }
}

fn object(object: &Object) -> Value {
    let properties: serde_json::Map<String, Value> = object
        .keys
        .iter()
        .map(|key| {
            let mut value = kind(&key.kind);
            value["description"] = json!(key.doc);
            (key.name.to_owned(), value)
        })
        .collect();
    let required: Vec<&str> = object.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    json!({
        "type": "object",
        "description": object.doc,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn kind(of: &Kind) -> Value {
    match of {
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Integer { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::WordOrInteger { word, min, max } => {
            json!({"oneOf": [{"const": word}, {"type": "integer", "minimum": min, "maximum": max}]})
        }
        Kind::Duration { .. } => {
            json!({"type": "string", "pattern": "^([0-9]+(h|m|s|ms|us))+$"})
        }
        Kind::Size { min, max } => json!({"oneOf": [
            {"type": "integer", "minimum": min, "maximum": max},
            {"type": "string", "pattern": "^[0-9]+ *(B|KiB|MiB|GiB)?$"},
        ]}),
        Kind::Percentage => json!({"type": "string", "pattern": r"^[0-9]{1,3}(\.[0-9]{1,4})?%$"}),
        Kind::Number { min, max } => json!({"type": "number", "minimum": min, "maximum": max}),
        Kind::Rate { .. } => json!({"type": "string", "pattern": "^[0-9]+/s$"}),
        Kind::Address { .. } => {
            json!({"type": "string", "pattern": r"^([0-9.]+|\[[0-9a-fA-F:.]+\]):[0-9]+$"})
        }
        Kind::Text(form) => match form.pattern() {
            Some(pattern) => json!({"type": "string", "pattern": pattern}),
            None => json!({"type": "string"}),
        },
        Kind::Word(words) => json!({"enum": words}),
        Kind::Object(of) => object(of),
        Kind::List(of) => json!({"type": "array", "items": kind(of)}),
        Kind::Map { key, value } => json!({
            "type": "object",
            "propertyNames": kind(&Kind::Text(*key)),
            "additionalProperties": kind(value),
        }),
        Kind::Either { short, long } => json!({"oneOf": [kind(short), object(long)]}),
    }
}
