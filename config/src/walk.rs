//! Walks a tree of values along the table of keys, collecting every fault on the way.
//!
//! What comes out holds only values of the kind that their key asks for. A value with a fault leaves a hole,
//! and `given` tells a hole from a key that was left out, so that one mistake is not told twice.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::fault::{Place, Sink, Wrong};
use crate::keys::{Key, Kind, Object};
use crate::scalar;
use crate::spell;
use crate::text::Text;
use crate::yaml::{Field, Meaning, Node, Scalar, Value, below};

/// A value of the kind that its key asks for.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) place: Place,
    pub(crate) path: String,
    pub(crate) value: ItemValue,
}

/// See [`Kind`]; sizes, percentages and rates are integers.
#[derive(Debug)]
pub(crate) enum ItemValue {
    Bool(bool),
    Integer(u64),
    Number(f64),
    Duration(Duration),
    Address(SocketAddr),
    Text(String),
    Fields(Fields),
    List(Vec<Option<Item>>),
    Map(Vec<(String, Item)>),
}

impl Item {
    pub(crate) fn fields(&self) -> Option<&Fields> {
        match &self.value {
            ItemValue::Fields(fields) => Some(fields),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            ItemValue::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn integer(&self) -> Option<u64> {
        match self.value {
            ItemValue::Integer(integer) => Some(integer),
            _ => None,
        }
    }

    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self.value {
            ItemValue::Address(address) => Some(address),
            _ => None,
        }
    }
}

/// The keys of one object.
#[derive(Debug)]
pub(crate) struct Fields {
    pub(crate) place: Place,
    pub(crate) path: String,
    /// No fault was found in it, so what it does not say was left out on purpose.
    pub(crate) whole: bool,
    object: &'static Object,
    entries: Vec<(&'static str, Option<Item>)>,
}

impl Fields {
    /// Whether the key is in the file, with or without a fault.
    pub(crate) fn given(&self, name: &str) -> bool {
        debug_assert!(self.object.key(name).is_some(), "no key `{name}` in the table");
        self.entries.iter().any(|(known, _)| *known == name)
    }

    /// The value of a key, if it is there and without a fault.
    pub(crate) fn item(&self, name: &str) -> Option<&Item> {
        debug_assert!(self.object.key(name).is_some(), "no key `{name}` in the table");
        self.entries.iter().find(|(known, _)| *known == name).and_then(|(_, item)| item.as_ref())
    }

    pub(crate) fn fields(&self, name: &str) -> Option<&Fields> {
        self.item(name)?.fields()
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.item(name)?.text()
    }

    pub(crate) fn integer(&self, name: &str) -> Option<u64> {
        self.item(name)?.integer()
    }

    /// A percentage, in parts per million.
    pub(crate) fn ppm(&self, name: &str) -> Option<u32> {
        self.integer(name).and_then(|ppm| u32::try_from(ppm).ok())
    }

    /// An integer whose range in the table fits.
    pub(crate) fn small(&self, name: &str) -> Option<u32> {
        self.integer(name).and_then(|integer| u32::try_from(integer).ok())
    }

    pub(crate) fn size(&self, name: &str) -> Option<usize> {
        self.integer(name).and_then(|integer| usize::try_from(integer).ok())
    }

    pub(crate) fn number(&self, name: &str) -> Option<f64> {
        match self.item(name)?.value {
            ItemValue::Number(number) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn address(&self, name: &str) -> Option<SocketAddr> {
        self.item(name)?.address()
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        match self.item(name)?.value {
            ItemValue::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    pub(crate) fn duration(&self, name: &str) -> Option<Duration> {
        match self.item(name)?.value {
            ItemValue::Duration(duration) => Some(duration),
            _ => None,
        }
    }

    /// The items of a list, with holes; nothing where the key is not there.
    pub(crate) fn list(&self, name: &str) -> &[Option<Item>] {
        match self.item(name).map(|item| &item.value) {
            Some(ItemValue::List(items)) => items,
            _ => &[],
        }
    }

    /// The entries of a mapping; nothing where the key is not there.
    pub(crate) fn map(&self, name: &str) -> &[(String, Item)] {
        match self.item(name).map(|item| &item.value) {
            Some(ItemValue::Map(entries)) => entries,
            _ => &[],
        }
    }
}

/// Walks a whole file.
pub(crate) fn walk(node: &Node, object: &'static Object, sink: &mut Sink) -> Option<Fields> {
    fields(node, object, String::new(), sink)
}

fn fields(node: &Node, object: &'static Object, path: String, sink: &mut Sink) -> Option<Fields> {
    let faults = sink.count();
    let Value::Mapping(given) = &node.value else {
        // Who writes a single value means one of the keys.
        let means_one =
            matches!(&node.value, Value::Scalar(scalar) if !matches!(scalar.meaning, Meaning::Null));
        let key = object.keys.iter().find(|key| key.required).or(object.keys.first().filter(|_| means_one));
        let hint = match key {
            Some(key) => format!("write `{}: ...` below it", key.name),
            None => "write `{}` for the defaults".to_owned(),
        };
        sink.add(node.place, &path, unexpected("a mapping", node).hint(hint));
        return None;
    };
    let mut entries = Vec::with_capacity(given.len());
    for field in given {
        let path = below(&path, &field.key);
        match object.key(&field.key) {
            Some(key) => entries.push((key.name, item(&field.node, &key.kind, path, sink))),
            None => sink.add(field.place, &path, unknown(&field.key, object)),
        }
    }
    for key in object.keys.iter().filter(|key| key.required) {
        if !entries.iter().any(|(name, _)| *name == key.name) {
            sink.add(node.place, &below(&path, key.name), missing(key));
        }
    }
    let whole = sink.count() == faults;
    Some(Fields { place: node.place, path, whole, object, entries })
}

fn item(node: &Node, kind: &'static Kind, path: String, sink: &mut Sink) -> Option<Item> {
    let place = node.place;
    let value = match kind {
        Kind::Object(object) => ItemValue::Fields(fields(node, object, path.clone(), sink)?),
        Kind::List(kind) => list(node, kind, &path, sink)?,
        Kind::Map { key, value } => map(node, *key, value, &path, sink)?,
        Kind::Either { long, .. } if matches!(node.value, Value::Mapping(_)) => {
            ItemValue::Fields(fields(node, long, path.clone(), sink)?)
        }
        Kind::Either { short, .. } => return item(node, short, path, sink),
        single => match single_value(node, single) {
            Ok(value) => value,
            Err(wrong) => {
                sink.add(place, &path, wrong);
                return None;
            }
        },
    };
    Some(Item { place, path, value })
}

fn list(node: &Node, kind: &'static Kind, path: &str, sink: &mut Sink) -> Option<ItemValue> {
    let Value::Sequence(nodes) = &node.value else {
        sink.add(node.place, path, unexpected("a list", node).hint("write `[...]`, or one `- ` a line"));
        return None;
    };
    let items = nodes.iter().enumerate().map(|(i, node)| item(node, kind, format!("{path}[{i}]"), sink));
    Some(ItemValue::List(items.collect()))
}

fn map(node: &Node, form: Text, kind: &'static Kind, path: &str, sink: &mut Sink) -> Option<ItemValue> {
    let Value::Mapping(given) = &node.value else {
        sink.add(node.place, path, unexpected("a mapping", node).hint("write `{key: value}`"));
        return None;
    };
    let mut entries = Vec::with_capacity(given.len());
    for field in given {
        let path = below(path, &field.key);
        let key = check_key(field, form);
        let value = item(&field.node, kind, path.clone(), sink);
        match (key, value) {
            (Ok(()), Some(item)) => entries.push((field.key.clone(), item)),
            (Ok(()), None) => {}
            (Err(wrong), _) => sink.add(field.place, &path, wrong),
        }
    }
    Some(ItemValue::Map(entries))
}

fn check_key(field: &Field, form: Text) -> Result<(), Wrong> {
    if !field.key_is_text {
        let wrong = Wrong::new(format!("the key {} is not a text", field.key));
        return Err(wrong.hint(format!("quote it: \"{}\"", field.key)));
    }
    form.check(&field.key)
}

fn single_value(node: &Node, kind: &Kind) -> Result<ItemValue, Wrong> {
    let Value::Scalar(scalar) = &node.value else {
        return Err(unexpected(&expected(kind), node));
    };
    let raw = scalar.raw.as_str();
    match (kind, scalar.meaning) {
        (_, Meaning::Null) => {
            Err(unexpected(&expected(kind), node).hint("write a value, or leave the key out"))
        }
        (Kind::Bool, Meaning::Bool(flag)) => Ok(ItemValue::Bool(flag)),
        (Kind::Bool, _) => Err(unexpected(&expected(kind), node).hint(bool_hint(scalar))),
        (Kind::WordOrInteger { word, .. }, Meaning::Text) if raw == *word => {
            Ok(ItemValue::Text(raw.to_owned()))
        }
        (Kind::Integer { min, max } | Kind::WordOrInteger { min, max, .. }, Meaning::Integer(number)) => {
            match u64::try_from(number) {
                Ok(number) if (*min..=*max).contains(&number) => Ok(ItemValue::Integer(number)),
                _ => Err(Wrong::new(format!("{raw} is out of range")).hint(range_hint(*min, *max))),
            }
        }
        (Kind::Integer { .. } | Kind::WordOrInteger { .. }, Meaning::Text)
            if !scalar.plain && raw.parse::<u64>().is_ok() =>
        {
            Err(unexpected(&expected(kind), node).hint("write it without quotes"))
        }
        (Kind::Size { min, max }, Meaning::Integer(_) | Meaning::Text) => {
            scalar::size(raw, *min, *max).map(ItemValue::Integer)
        }
        (Kind::Duration { .. }, Meaning::Integer(number)) => {
            Err(unexpected(&expected(kind), node).hint(format!("add a unit: `{number}s`")))
        }
        (Kind::Duration { min }, Meaning::Text) => scalar::duration(raw, *min).map(ItemValue::Duration),
        (Kind::Percentage, Meaning::Text) => scalar::percentage(raw).map(ItemValue::Integer),
        (Kind::Percentage, Meaning::Integer(number)) => {
            Err(unexpected(&expected(kind), node).hint(format!("write `{number}%`")))
        }
        (Kind::Number { min, max }, Meaning::Integer(_) | Meaning::Float) => {
            scalar::number(raw, *min, *max).map(ItemValue::Number)
        }
        (Kind::Rate { min, max }, Meaning::Text) => scalar::rate(raw, *min, *max).map(ItemValue::Integer),
        (Kind::Rate { .. }, Meaning::Integer(number)) => {
            Err(unexpected(&expected(kind), node).hint(format!("write `{number}/s`")))
        }
        (Kind::Address { port_zero }, Meaning::Text) => {
            scalar::address(raw, *port_zero).map(ItemValue::Address)
        }
        (Kind::Word(words), Meaning::Text) if words.contains(&raw) => Ok(ItemValue::Text(raw.to_owned())),
        (Kind::Word(words), _) => {
            let wrong = unexpected(&expected(kind), node);
            Err(match meant_word(raw, words) {
                Some(meant) => wrong.hint(format!("did you mean `{meant}`?")),
                None => wrong,
            })
        }
        (Kind::Text(form), Meaning::Text) => {
            if scalar.plain && is_old_bool(raw) {
                let wrong = Wrong::new(format!("`{raw}` without quotes is a flag to many YAML readers"));
                return Err(wrong.hint(format!("write \"{raw}\" for the text, in quotes")));
            }
            form.check(raw).map(|()| ItemValue::Text(raw.to_owned()))
        }
        (Kind::Text(_), _) => {
            Err(unexpected(&expected(kind), node).hint(format!("write it in quotes: \"{raw}\"")))
        }
        _ => Err(unexpected(&expected(kind), node)),
    }
}

fn expected(kind: &Kind) -> String {
    match kind {
        Kind::Bool => "`true` or `false`".to_owned(),
        Kind::Integer { .. } => "a whole number".to_owned(),
        Kind::WordOrInteger { word, .. } => format!("`{word}` or a whole number"),
        Kind::Duration { .. } => "a duration such as `250ms`".to_owned(),
        Kind::Size { .. } => "a size such as `64KiB`".to_owned(),
        Kind::Percentage => "a percentage such as `20%`".to_owned(),
        Kind::Number { .. } => "a number such as `1.5`".to_owned(),
        Kind::Rate { .. } => "a rate such as `100/s`".to_owned(),
        Kind::Address { .. } => "an address such as `127.0.0.1:50051`".to_owned(),
        Kind::Text(form) => form.expected().to_owned(),
        Kind::Word(words) => match words.split_last() {
            Some((last, rest)) if !rest.is_empty() => {
                let rest: Vec<String> = rest.iter().map(|word| format!("`{word}`")).collect();
                format!("{} or `{last}`", rest.join(", "))
            }
            _ => spell::list(words.iter().copied()),
        },
        Kind::Object(_) | Kind::Map { .. } => "a mapping".to_owned(),
        Kind::List(_) => "a list".to_owned(),
        Kind::Either { short, .. } => format!("{}, or a mapping", expected(short)),
    }
}

/// "expected THIS, found THAT".
fn unexpected(expected: &str, node: &Node) -> Wrong {
    let found = match &node.value {
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "a mapping".to_owned(),
        Value::Scalar(scalar) => match scalar.meaning {
            Meaning::Null => "nothing".to_owned(),
            Meaning::Bool(flag) => format!("the flag `{flag}`"),
            Meaning::Integer(_) | Meaning::Float => format!("the number {}", scalar.raw),
            Meaning::Text => format!("the text {:?}", scalar.raw),
        },
    };
    Wrong::new(format!("expected {expected}, found {found}"))
}

fn unknown(name: &str, object: &Object) -> Wrong {
    let wrong = Wrong::new(format!("unknown key `{name}`"));
    if object.later.contains(&name) {
        return wrong.hint(format!("`{name}` is not supported by this version yet"));
    }
    if name == "<<" {
        return wrong
            .hint("merge keys are not supported; write the keys out, or use an alias for the whole block");
    }
    let keys = || object.keys.iter().map(|key| key.name);
    if let Some(meant) = spell::nearest(name, keys()) {
        return wrong.hint(format!("did you mean `{meant}`?"));
    }
    match spell::nearest(name, object.later.iter().copied()) {
        Some(meant) => {
            wrong.hint(format!("did you mean `{meant}`? `{meant}` is not supported by this version yet"))
        }
        None => wrong.hint(format!("known here: {}", spell::list(keys()))),
    }
}

fn missing(key: &Key) -> Wrong {
    Wrong::new(format!("the key `{}` is missing", key.name)).hint(format!("add `{}`: {}", key.name, key.doc))
}

fn range_hint(min: u64, max: u64) -> String {
    if min == max { format!("write {min}") } else { format!("write {min} to {max}") }
}

fn bool_hint(scalar: &Scalar) -> String {
    match scalar.raw.to_ascii_lowercase().as_str() {
        "yes" | "on" | "y" | "true" => "write `true`".to_owned(),
        "no" | "off" | "n" | "false" => "write `false`".to_owned(),
        _ => "write `true` or `false`, without quotes".to_owned(),
    }
}

fn meant_word<'a>(found: &str, words: &[&'a str]) -> Option<&'a str> {
    let (lower, upper) = (found.to_ascii_lowercase(), found.to_ascii_uppercase());
    let words = || words.iter().copied();
    match lower.as_str() {
        "no" | "n" | "false" => words().find(|word| *word == "off"),
        _ => spell::nearest(&lower, words()).or_else(|| spell::nearest(&upper, words())),
    }
}

/// Words that YAML 1.1 reads as a flag, and YAML 1.2 as a text.
fn is_old_bool(raw: &str) -> bool {
    ["y", "n", "yes", "no", "on", "off"].iter().any(|word| raw.eq_ignore_ascii_case(word))
}

/// A file name, as it is written.
pub(crate) fn path(fields: &Fields, name: &str) -> Option<PathBuf> {
    fields.text(name).map(PathBuf::from)
}

/// Where a key stands, or the block that it would stand in.
pub(crate) fn spot(fields: &Fields, name: &str) -> (Place, String) {
    match fields.item(name) {
        Some(item) => (item.place, item.path.clone()),
        None => (fields.place, fields.path.clone()),
    }
}
