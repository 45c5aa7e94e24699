//! Finds fields that the generated code does not know: it drops them without a word.
//!
//! The bytes as they came are held against the bytes of what was read. A field that is in the first and not in the second
//! was not known, unless it says nothing (writers may leave out or write down what is the default).

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};

/// Messages in messages; far beyond what any resource has, and beyond what prost reads.
const DEPTH_MAX: usize = 100;

/// The first unknown field, as the numbers that lead to it: `4.3.99`.
pub(crate) fn find(original: &[u8], known: &[u8]) -> Option<String> {
    if original == known {
        return None;
    }
    within(original, known, DEPTH_MAX).map(|numbers| {
        let numbers: Vec<String> = numbers.iter().rev().map(u32::to_string).collect();
        numbers.join(".")
    })
}

/// One field: its number and its value, which is bytes whatever it is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Field<'a> {
    number: u32,
    wire: WireType,
    value: &'a [u8],
}

/// The numbers, the innermost first.
fn within(original: &[u8], known: &[u8], depth: usize) -> Option<Vec<u32>> {
    let (original, known) = (fields(original)?, fields(known).unwrap_or_default());
    // What is the same in both goes together; what is left over of a list goes together in its order.
    let mut same: HashMap<(u32, &[u8]), usize> = HashMap::new();
    for field in &original {
        *same.entry((field.number, field.value)).or_default() += 1;
    }
    let mut there: HashSet<u32> = HashSet::new();
    let mut spare: HashMap<u32, VecDeque<Field<'_>>> = HashMap::new();
    let mut twins: HashMap<(u32, &[u8]), usize> = HashMap::new();
    for field in known {
        let key = (field.number, field.value);
        there.insert(field.number);
        match same.get_mut(&key).filter(|count| **count > 0) {
            Some(count) => {
                *count -= 1;
                *twins.entry(key).or_default() += 1;
            }
            None => spare.entry(field.number).or_default().push_back(field),
        }
    }
    for field in original {
        if let Some(count) = twins.get_mut(&(field.number, field.value)).filter(|count| **count > 0) {
            *count -= 1;
            continue;
        }
        if field.says_nothing() {
            continue;
        }
        // The value is written another way, or something in it is unknown.
        match spare.get_mut(&field.number).and_then(VecDeque::pop_front) {
            Some(other) => {
                let messages =
                    field.wire == WireType::LengthDelimited && other.wire == WireType::LengthDelimited;
                if messages
                    && depth > 0
                    && let Some(mut numbers) = within(field.value, other.value, depth - 1)
                {
                    numbers.push(field.number);
                    return Some(numbers);
                }
            }
            // A list of numbers may come packed or not, and a message in parts.
            None if there.contains(&field.number) => {}
            None => return Some(vec![field.number]),
        }
    }
    None
}

impl Field<'_> {
    /// A default that was written down. An empty message may say something by being there; but the key and the value of
    /// an entry of a map, which some writers always give, are the fields 1 and 2, and those of our messages are all known.
    fn says_nothing(&self) -> bool {
        match self.wire {
            WireType::LengthDelimited => self.value.is_empty() && self.number <= 2,
            _ => self.value.iter().all(|byte| *byte & 0x7f == 0),
        }
    }
}

/// All fields of a message; `None` where the bytes are not one.
fn fields(mut rest: &[u8]) -> Option<Vec<Field<'_>>> {
    let mut fields = Vec::new();
    while rest.has_remaining() {
        let (number, wire) = decode_key(&mut rest).ok()?;
        let start = rest;
        let value = match wire {
            WireType::Varint => {
                decode_varint(&mut rest).ok()?;
                &start[..start.len() - rest.len()]
            }
            WireType::SixtyFourBit => take(&mut rest, 8)?,
            WireType::ThirtyTwoBit => take(&mut rest, 4)?,
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
                take(&mut rest, length)?
            }
            WireType::StartGroup | WireType::EndGroup => &[1],
        };
        fields.push(Field { number, wire, value });
    }
    Some(fields)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (value, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(value)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::pb::route::{Route, RouteConfiguration, VirtualHost};
    use crate::wire::{put_bytes, put_entry};

    fn found(bytes: &[u8]) -> Option<String> {
        find(bytes, &RouteConfiguration::decode(bytes).unwrap().encode_to_vec())
    }

    #[test]
    fn a_field_that_is_not_known_is_found_wherever_it_stands() {
        let route = Route { name: "r".into(), ..Route::default() };
        let host =
            VirtualHost { name: "h".into(), routes: vec![route.clone(), route], ..VirtualHost::default() };
        let whole = RouteConfiguration { virtual_hosts: vec![host.clone()], ..RouteConfiguration::default() };
        assert_eq!(found(&whole.encode_to_vec()), None);

        let mut outside = whole.encode_to_vec();
        put_bytes(999, b"", &mut outside);
        assert_eq!(found(&outside).as_deref(), Some("999"));

        let mut inside = host.encode_to_vec();
        put_bytes(998, b"x", &mut inside);
        let mut bytes = whole.encode_to_vec();
        put_bytes(2, &inside, &mut bytes);
        assert_eq!(found(&bytes).as_deref(), Some("2.998"));

        let mut route = Vec::new();
        put_bytes(997, b"x", &mut route);
        let mut host = host.encode_to_vec();
        put_bytes(3, &route, &mut host);
        let mut bytes = Vec::new();
        put_bytes(2, &host, &mut bytes);
        assert_eq!(found(&bytes).as_deref(), Some("2.3.997"));
    }

    #[test]
    fn what_is_written_another_way_is_known() {
        // A default (ignore_port_in_host_matching: false), a number with a needless byte, an entry without a value.
        let mut bytes = vec![14 << 3, 0, 14 << 3, 0x81, 0];
        put_entry(16, "k", b"", &mut bytes);
        let known = RouteConfiguration::decode(&bytes[..]).unwrap();
        assert_ne!(known.encode_to_vec(), bytes);
        assert!(known.ignore_port_in_host_matching && known.typed_per_filter_config.contains_key("k"));
        assert_eq!(found(&bytes), None);
    }
}
