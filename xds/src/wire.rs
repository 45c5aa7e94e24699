//! Small things of protobuf: `Any`, durations, wrapped numbers, and bytes written by hand where generated code would not
//! always write the same.

use std::time::Duration;

use prost::encoding::{WireType, encode_key, encode_varint};
use prost::{Message, Name};

use crate::decode::at::At;
use crate::decode::unknown;
use crate::pb::protobuf;
use crate::refusal::Refusal;

/// The longest duration of the model: past it a clock could overflow, and nobody means it.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A message in an `Any`.
pub(crate) fn pack<M: Message + Name>(message: &M) -> protobuf::Any {
    protobuf::Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// The message in an `Any`, if it is of that type.
pub(crate) fn unpack<M: Message + Name + Default>(
    any: &protobuf::Any,
    at: &At<'_>,
) -> Result<Option<M>, Refusal> {
    if any.type_url != M::type_url() {
        return Ok(None);
    }
    read(&any.value, at).map(Some)
}

/// A message of `bytes`, all of whose fields this version knows.
pub(crate) fn read<M: Message + Default>(bytes: &[u8], at: &At<'_>) -> Result<M, Refusal> {
    let message = M::decode(bytes).map_err(|error| at.refuse(format!("it cannot be read: {error}")))?;
    match unknown::find(bytes, &message.encode_to_vec()) {
        None => Ok(message),
        Some(field) => Err(at.refuse(format!(
            "the field with the numbers {field} is not known to this version; leave it out, or bring this sidecar up to date"
        ))),
    }
}

/// A duration as protobuf writes it.
pub(crate) fn duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// A duration of 0 to a year.
pub(crate) fn read_duration(duration: &protobuf::Duration, at: &At<'_>) -> Result<Duration, Refusal> {
    let protobuf::Duration { seconds, nanos } = *duration;
    match (u64::try_from(seconds), u32::try_from(nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => {
            match Duration::from_secs(seconds).checked_add(Duration::from_nanos(u64::from(nanos))) {
                Some(read) if read <= DURATION_MAX => Ok(read),
                _ => Err(at.refuse("it is more than a year; at most 31536000s is possible")),
            }
        }
        _ => Err(at.refuse("it is not a duration of 0 s or more")),
    }
}

/// A duration above 0; 0 and none are `None`.
pub(crate) fn read_limit(
    duration: Option<&protobuf::Duration>,
    at: &At<'_>,
) -> Result<Option<Duration>, Refusal> {
    let read = duration.map(|duration| read_duration(duration, at)).transpose()?;
    Ok(read.filter(|read| !read.is_zero()))
}

/// A number with presence.
pub(crate) fn number(value: u32) -> protobuf::UInt32Value {
    protobuf::UInt32Value { value }
}

/// Writes `value` as the number or enum `tag`.
pub(crate) fn put_number(tag: u32, value: u64, into: &mut Vec<u8>) {
    encode_key(tag, WireType::Varint, into);
    encode_varint(value, into);
}

/// Writes `value` as the length-delimited field `tag`: a message, a text or bytes.
pub(crate) fn put_bytes(tag: u32, value: &[u8], into: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, into);
    encode_varint(value.len() as u64, into);
    into.extend_from_slice(value);
}

/// Writes one entry of the map `tag`. A generated map is a `HashMap` and has no order; written one by one in the order of
/// their keys, entries always give the same bytes.
pub(crate) fn put_entry(tag: u32, key: &str, value: &[u8], into: &mut Vec<u8>) {
    let mut entry = Vec::with_capacity(key.len() + value.len() + 8);
    put_bytes(1, key.as_bytes(), &mut entry);
    put_bytes(2, value, &mut entry);
    put_bytes(tag, &entry, into);
}
