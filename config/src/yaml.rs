//! YAML text into a tree of values that know their places.
//!
//! Two readers look at the text: `saphyr-parser` for the places (`outline`), `serde_yaml` for the values.
//! They are laid over each other; where they disagree the file is refused, because a text that two readers
//! understand differently is one that people understand differently. `serde_yaml` is named here only. Its
//! own `Value` gives up at the first key that stands twice, hence the small tree of our own (`Loose`).

use std::collections::HashSet;
use std::fmt;
use std::rc::Rc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::fault::{Place, Sink, Wrong};
use crate::outline::{Outline, Shape, outline, without_mark};

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What a value is.
#[derive(Debug)]
pub(crate) enum Value {
    Scalar(Scalar),
    Sequence(Vec<Node>),
    /// Keys stand once; a second one is a fault already.
    Mapping(Vec<Field>),
}

/// A single value.
#[derive(Debug)]
pub(crate) struct Scalar {
    /// As it is written, without quotes.
    pub(crate) raw: String,
    /// Written without quotes.
    pub(crate) plain: bool,
    pub(crate) meaning: Meaning,
}

/// How YAML reads a scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Meaning {
    Null,
    Bool(bool),
    Integer(i128),
    Float,
    Text,
}

/// A key and its value.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) key: String,
    /// YAML reads the key as something other than a text.
    pub(crate) key_is_text: bool,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

/// Reads a file. `None`: it could not be read at all, and the sink says why.
pub(crate) fn read(text: &str, sink: &mut Sink) -> Option<Node> {
    let outline = match outline(text) {
        Ok(outline) => outline,
        Err((place, wrong)) => {
            sink.add(place, "", wrong);
            return None;
        }
    };
    let loose: Loose = match serde_yaml::from_str(without_mark(text)) {
        Ok(loose) => loose,
        Err(error) => {
            let place = error
                .location()
                .map_or(Place::START, |at| Place { line: at.line().max(1), column: at.column().max(1) });
            sink.add(place, "", Wrong::new(format!("this is not YAML: {error}")));
            return None;
        }
    };
    match join(&outline, loose, "", sink) {
        Ok(node) => Some(node),
        Err(Disagreement(place)) => {
            let wrong = Wrong::new("this YAML can be read in two ways");
            sink.add(place, "", wrong.hint("write it more plainly: quote texts, leave out special syntax"));
            None
        }
    }
}

/// The path of a key below `path`; keys that are not plain words stand in brackets.
pub(crate) fn below(path: &str, key: &str) -> String {
    let word = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match (word, path.is_empty()) {
        (true, true) => key.to_owned(),
        (true, false) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{key:?}]"),
    }
}

/// What `serde_yaml` makes of the text, keys that stand twice included.
enum Loose {
    Scalar(Meaning, Option<String>),
    Sequence(Vec<Loose>),
    Mapping(Vec<(Loose, Loose)>),
}

struct Disagreement(Place);

fn join(outline: &Rc<Outline>, loose: Loose, path: &str, sink: &mut Sink) -> Result<Node, Disagreement> {
    let place = outline.place;
    let value = match (&outline.shape, loose) {
        (Shape::Scalar { text, plain }, Loose::Scalar(meaning, read)) => {
            if read.is_some_and(|read| read != *text) {
                return Err(Disagreement(place));
            }
            Value::Scalar(Scalar { raw: text.clone(), plain: *plain, meaning })
        }
        (Shape::Sequence(items), Loose::Sequence(loose)) if items.len() == loose.len() => {
            let pairs = items.iter().zip(loose).enumerate();
            let nodes = pairs.map(|(i, (item, loose))| join(item, loose, &format!("{path}[{i}]"), sink));
            Value::Sequence(nodes.collect::<Result<_, _>>()?)
        }
        (Shape::Mapping(entries), Loose::Mapping(loose)) if entries.len() == loose.len() => {
            let mut seen = HashSet::new();
            let mut fields = Vec::with_capacity(entries.len());
            for (entry, (key, loose)) in entries.iter().zip(loose) {
                let Loose::Scalar(meaning, read) = key else {
                    return Err(Disagreement(entry.place));
                };
                if read.is_some_and(|read| read != entry.key) {
                    return Err(Disagreement(entry.place));
                }
                let path = below(path, &entry.key);
                let node = join(&entry.value, loose, &path, sink)?;
                if !seen.insert(&entry.key) {
                    let wrong = Wrong::new(format!("the key `{}` stands here twice", entry.key));
                    sink.add(entry.place, &path, wrong.hint("keep one of them"));
                    continue;
                }
                fields.push(Field {
                    key: entry.key.clone(),
                    key_is_text: meaning == Meaning::Text,
                    place: entry.place,
                    node,
                });
            }
            Value::Mapping(fields)
        }
        _ => return Err(Disagreement(place)),
    };
    Ok(Node { place, value })
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::Scalar(Meaning::Null, None))
    }

    fn visit_none<E>(self) -> Result<Loose, E> {
        Ok(Loose::Scalar(Meaning::Null, None))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Loose, D::Error> {
        Loose::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Loose, E> {
        Ok(Loose::Scalar(Meaning::Bool(value), None))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Loose, E> {
        Ok(Loose::Scalar(Meaning::Integer(value.into()), None))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Loose, E> {
        Ok(Loose::Scalar(Meaning::Integer(value.into()), None))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Loose, E> {
        Ok(Loose::Scalar(Meaning::Integer(value), None))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Loose, E> {
        Ok(Loose::Scalar(Meaning::Integer(i128::try_from(value).unwrap_or(i128::MAX)), None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Loose, E> {
        Ok(Loose::Scalar(Meaning::Float, None))
    }

    fn visit_str<E>(self, value: &str) -> Result<Loose, E> {
        Ok(Loose::Scalar(Meaning::Text, Some(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Loose, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element()? {
            items.push(item);
        }
        Ok(Loose::Sequence(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut mapping: A) -> Result<Loose, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = mapping.next_entry()? {
            entries.push(entry);
        }
        Ok(Loose::Mapping(entries))
    }
}
