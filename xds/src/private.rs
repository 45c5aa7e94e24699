//! What the public part of a resource cannot say: `xds.type.v3.TypedStruct` of our own types, where others skip it.
//!
//! It stands in `metadata.typed_filter_metadata["outrigger"]` of a Listener, a virtual host, a route, a cluster or an
//! endpoint, or first in a list of load-balancing policies. It is written by hand: a generated `Struct` is a `HashMap`, and
//! the same fields must always give the same bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::decode::at::At;
use crate::pb::core::Metadata;
use crate::pb::protobuf::{self, Any, value::Kind};
use crate::refusal::Refusal;
use crate::wire::{put_bytes, put_entry};

/// The beginning of the type URLs of our own types.
const TYPES: &str = "type.googleapis.com/outrigger.v1.";

/// The type URL of what carries them.
const CARRIER: &str = "type.googleapis.com/xds.type.v3.TypedStruct";

/// The name under which they stand in metadata.
pub(crate) const KEY: &str = "outrigger";

/// Whole numbers up to here are exact in a `Struct`.
const EXACT_MAX: u64 = 1 << 53;

/// Structs and lists in each other that are read.
const DEPTH_MAX: u32 = 16;

/// `xds.type.v3.TypedStruct`, which the generated code lacks.
#[derive(Clone, PartialEq, Message)]
struct TypedStruct {
    /// What the fields are.
    #[prost(string, tag = "1")]
    type_url: String,
    /// The fields.
    #[prost(message, optional, tag = "2")]
    value: Option<protobuf::Struct>,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Number(f64),
    Text(String),
    Flag(bool),
    List(Vec<Value>),
    Fields(Fields),
}

/// Fields in the order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields(BTreeMap<String, Value>);

impl Fields {
    /// Adds a field.
    pub(crate) fn put(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// Adds a text.
    pub(crate) fn text(&mut self, name: &str, value: impl Into<String>) {
        self.put(name, Value::Text(value.into()));
    }

    /// Adds texts.
    pub(crate) fn texts<'a>(&mut self, name: &str, values: impl IntoIterator<Item = &'a str>) {
        self.put(name, Value::List(values.into_iter().map(|value| Value::Text(value.to_owned())).collect()));
    }

    /// Adds a number that is exact: parts per million, counts, codes, ports, factors.
    pub(crate) fn number(&mut self, name: &str, value: impl Into<f64>) {
        self.put(name, Value::Number(value.into()));
    }

    /// Adds numbers that are exact.
    pub(crate) fn numbers<N: Into<f64>>(&mut self, name: &str, values: impl IntoIterator<Item = N>) {
        let values = values.into_iter().map(|value| Value::Number(value.into()));
        self.put(name, Value::List(values.collect()));
    }

    /// Adds a whole number of any size, as text.
    pub(crate) fn whole(&mut self, name: &str, value: u64) {
        self.text(name, value.to_string());
    }

    /// Adds a flag, if it is on.
    pub(crate) fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.put(name, Value::Flag(true));
        }
    }

    /// Adds a duration: seconds with decimals, as JSON has protobuf's.
    pub(crate) fn duration(&mut self, name: &str, value: Duration) {
        let nanos = format!("{:09}", value.subsec_nanos());
        let text = format!("{}.{}", value.as_secs(), nanos.trim_end_matches('0'));
        self.text(name, format!("{}s", text.trim_end_matches('.')));
    }

    /// Adds fields within, if there are any.
    pub(crate) fn fields(&mut self, name: &str, value: Self) {
        if !value.0.is_empty() {
            self.put(name, Value::Fields(value));
        }
    }

    /// Whether nothing was added.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As an `Any` of our type `name`.
    pub(crate) fn any(&self, name: &str) -> Any {
        let mut value = Vec::new();
        put_bytes(1, format!("{TYPES}{name}").as_bytes(), &mut value);
        put_bytes(2, &self.bytes(), &mut value);
        Any { type_url: CARRIER.to_owned(), value }
    }

    /// As metadata of our type `name`; none where nothing was added.
    pub(crate) fn metadata(&self, name: &str) -> Option<Metadata> {
        let typed = || [(KEY.to_owned(), self.any(name))].into_iter().collect();
        (!self.is_empty()).then(|| Metadata { typed_filter_metadata: typed(), ..Metadata::default() })
    }

    /// A `google.protobuf.Struct`.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in &self.0 {
            put_entry(1, name, &value.bytes(), &mut bytes);
        }
        bytes
    }
}

impl Value {
    /// A `google.protobuf.Value`.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Self::Number(number) => {
                encode_key(2, WireType::SixtyFourBit, &mut bytes);
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            Self::Text(text) => put_bytes(3, text.as_bytes(), &mut bytes),
            Self::Flag(flag) => {
                encode_key(4, WireType::Varint, &mut bytes);
                encode_varint(u64::from(*flag), &mut bytes);
            }
            Self::Fields(fields) => put_bytes(5, &fields.bytes(), &mut bytes),
            Self::List(values) => {
                let mut list = Vec::new();
                for value in values {
                    put_bytes(1, &value.bytes(), &mut list);
                }
                put_bytes(6, &list, &mut bytes);
            }
        }
        bytes
    }

    fn read(value: &protobuf::Value, depth: u32, at: &At<'_>) -> Result<Self, Refusal> {
        Ok(match &value.kind {
            Some(Kind::NumberValue(number)) => Self::Number(*number),
            Some(Kind::StringValue(text)) => Self::Text(text.clone()),
            Some(Kind::BoolValue(flag)) => Self::Flag(*flag),
            Some(Kind::StructValue(fields)) => Self::Fields(read(fields, depth, at)?),
            Some(Kind::ListValue(list)) if depth > 0 => {
                let values = list.values.iter().map(|value| Self::read(value, depth - 1, at));
                Self::List(values.collect::<Result<_, _>>()?)
            }
            Some(Kind::ListValue(_)) => return Err(at.refuse(TOO_DEEP)),
            Some(Kind::NullValue(_)) | None => return Err(at.refuse("null says nothing; leave it out")),
        })
    }
}

const TOO_DEEP: &str = "more than 16 structs or lists in each other";

fn read(fields: &protobuf::Struct, depth: u32, at: &At<'_>) -> Result<Fields, Refusal> {
    if depth == 0 {
        return Err(at.refuse(TOO_DEEP));
    }
    let mut read = Fields::default();
    for (name, value) in &fields.fields {
        read.put(name, Value::read(value, depth - 1, &at.field(name))?);
    }
    Ok(read)
}

/// Fields that are being read. What is left over when all is read is refused.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    fields: Fields,
    at: At<'a>,
}

impl<'a> Reader<'a> {
    /// Reads an `Any` that stands at `at`; `None` where it is not of our type `name`.
    pub(crate) fn of_any(any: &Any, name: &str, at: At<'a>) -> Result<Option<Self>, Refusal> {
        if any.type_url != CARRIER {
            return Ok(None);
        }
        let carried = TypedStruct::decode(&any.value[..])
            .map_err(|error| at.refuse(format!("it cannot be read: {error}")))?;
        if carried.type_url.strip_prefix(TYPES) != Some(name) {
            return Ok(None);
        }
        let fields = carried.value.as_ref().map(|fields| read(fields, DEPTH_MAX, &at)).transpose()?;
        Ok(Some(Self { fields: fields.unwrap_or_default(), at }))
    }

    /// Reads what metadata says of our type `name`; without it, nothing is said. Metadata of other names is for others.
    pub(crate) fn of_metadata(
        metadata: Option<&Metadata>,
        name: &str,
        at: At<'a>,
    ) -> Result<Option<Self>, Refusal> {
        match metadata.and_then(|metadata| metadata.typed_filter_metadata.get(KEY)) {
            Some(any) => Self::of_any(any, name, at),
            None => Ok(None),
        }
    }

    /// Nothing was said.
    pub(crate) fn empty(at: At<'a>) -> Self {
        Self { fields: Fields::default(), at }
    }

    /// A text.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        self.take(name, "a text", |value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        })
    }

    /// A list of texts.
    pub(crate) fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, Refusal> {
        let text = |value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        };
        self.take(name, "a list of texts", |value| match value {
            Value::List(values) => values.into_iter().map(text).collect(),
            _ => None,
        })
    }

    /// A number.
    pub(crate) fn number(&mut self, name: &str) -> Result<Option<f64>, Refusal> {
        self.take(name, "a number", |value| match value {
            Value::Number(number) => Some(number),
            _ => None,
        })
    }

    /// A whole number that was written as one, from 0 to `max`.
    pub(crate) fn integer(&mut self, name: &str, max: u64) -> Result<Option<u64>, Refusal> {
        self.take(name, &format!("a whole number up to {max}"), |value| match value {
            Value::Number(number) => whole(number).filter(|number| *number <= max),
            _ => None,
        })
    }

    /// A list of whole numbers from 0 to `max`.
    pub(crate) fn integers(&mut self, name: &str, max: u64) -> Result<Option<Vec<u64>>, Refusal> {
        let number = |value| match value {
            Value::Number(number) => whole(number).filter(|number| *number <= max),
            _ => None,
        };
        self.take(name, &format!("a list of whole numbers up to {max}"), |value| match value {
            Value::List(values) => values.into_iter().map(number).collect(),
            _ => None,
        })
    }

    /// A number of 32 bits.
    pub(crate) fn small(&mut self, name: &str) -> Result<Option<u32>, Refusal> {
        Ok(self.integer(name, u64::from(u32::MAX))?.and_then(|number| u32::try_from(number).ok()))
    }

    /// A whole number of any size, which was written as text.
    pub(crate) fn whole(&mut self, name: &str) -> Result<Option<u64>, Refusal> {
        self.take(name, "a whole number as text", |value| match value {
            Value::Text(text) => text.parse().ok(),
            _ => None,
        })
    }

    /// A flag; off where nothing is said.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, Refusal> {
        let flag = self.take(name, "true or false", |value| match value {
            Value::Flag(flag) => Some(flag),
            _ => None,
        })?;
        Ok(flag.unwrap_or_default())
    }

    /// A duration.
    pub(crate) fn duration(&mut self, name: &str) -> Result<Option<Duration>, Refusal> {
        self.take(name, "a duration such as \"0.25s\"", |value| match value {
            Value::Text(text) => duration(&text),
            _ => None,
        })
    }

    /// What `read` makes of the fields in a field; all of them must be read.
    pub(crate) fn within<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, Refusal>,
    ) -> Result<Option<T>, Refusal> {
        let fields = self.take(name, "a struct", |value| match value {
            Value::Fields(fields) => Some(fields),
            _ => None,
        })?;
        let Some(fields) = fields else { return Ok(None) };
        let mut inner = Reader { fields, at: self.at.field(name) };
        let value = read(&mut inner)?;
        inner.finish()?;
        Ok(Some(value))
    }

    /// Ends the reading: what was not asked for is not understood.
    pub(crate) fn finish(self) -> Result<(), Refusal> {
        match self.fields.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(self
                .at
                .field(name)
                .refuse("this version does not know it; bring this sidecar up to date")),
        }
    }

    fn take<T>(
        &mut self,
        name: &str,
        wanted: &str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.fields.0.remove(name) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.at.field(name).refuse(format!("it is not {wanted}"))),
        }
    }
}

fn whole(number: f64) -> Option<u64> {
    // Exact, since it is whole and within what a double holds.
    (number >= 0.0 && number <= EXACT_MAX as f64 && number.fract() == 0.0).then_some(number as u64)
}

fn duration(text: &str) -> Option<Duration> {
    let text = text.strip_suffix('s')?;
    let (seconds, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(decimals) || decimals.len() > 9 {
        return None;
    }
    let nanos = format!("{decimals:0<9}").parse().ok()?;
    Some(Duration::new(seconds.parse().ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Fields {
        let mut inner = Fields::default();
        inner.number("ppm", 1_000_000);
        let mut fields = Fields::default();
        fields.text("text", "x");
        fields.texts("texts", ["b", "a"]);
        fields.number("factor", 1.4);
        fields.whole("seed", u64::MAX);
        fields.flag("on", true);
        fields.flag("off", false);
        fields.duration("short", Duration::from_micros(41_500));
        fields.duration("long", Duration::from_secs(3_600));
        fields.fields("inner", inner);
        fields.fields("none", Fields::default());
        fields
    }

    #[test]
    fn what_is_written_is_read() {
        let metadata = some().metadata("Test");
        let mut reader = Reader::of_metadata(metadata.as_ref(), "Test", At::ROOT).unwrap().unwrap();
        assert_eq!(reader.text("text").unwrap().as_deref(), Some("x"));
        assert_eq!(reader.texts("texts").unwrap(), Some(vec!["b".to_owned(), "a".to_owned()]));
        assert_eq!(reader.number("factor").unwrap(), Some(1.4));
        assert_eq!(reader.whole("seed").unwrap(), Some(u64::MAX));
        assert_eq!((reader.flag("on").unwrap(), reader.flag("off").unwrap()), (true, false));
        assert_eq!(reader.duration("short").unwrap(), Some(Duration::from_micros(41_500)));
        assert_eq!(reader.duration("long").unwrap(), Some(Duration::from_secs(3_600)));
        assert_eq!(reader.within("inner", |inner| inner.small("ppm")).unwrap(), Some(Some(1_000_000)));
        assert_eq!(reader.within("none", |_| Ok(())).unwrap(), None);
        reader.finish().unwrap();
    }

    #[test]
    fn the_same_fields_are_the_same_bytes() {
        let bytes = some().any("Test").encode_to_vec();
        for _ in 0..20 {
            assert_eq!(some().any("Test").encode_to_vec(), bytes);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_its_path() {
        let any = some().any("Test");
        assert!(Reader::of_any(&any, "Other", At::ROOT).unwrap().is_none());
        let root = At::ROOT;
        let mut reader = Reader::of_any(&any, "Test", root.field("metadata")).unwrap().unwrap();
        assert_eq!(reader.duration("text").unwrap_err().path, "metadata.text");
        assert_eq!(reader.integer("factor", 10).unwrap_err().path, "metadata.factor");
        assert_eq!(reader.within("inner", |_| Ok(())).unwrap_err().path, "metadata.inner.ppm");
        assert_eq!(reader.finish().unwrap_err().path, "metadata.long");
    }

    #[test]
    fn durations_are_seconds_with_decimals() {
        assert_eq!(duration("1.5s"), Some(Duration::from_millis(1_500)));
        for text in ["", "s", ".5s", "1", "-1s", "1.0000000001s", "1e3s", "1.s.s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
