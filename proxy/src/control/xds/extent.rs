//! How much a resource unfolds to when it is read: a message in it may come as two bytes and take two thousand. Pure.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use xds::Kind;

/// Messages and texts in one resource, at most, however deep: 10,000 endpoints with all that can be said of each.
const ELEMENTS_MAX: usize = 250_000;
/// Messages and texts in the two outer layers of a resource that is no assignment: routes and the like, which take the most
/// memory. In a listener, where routes may lie deeper, in all layers, apart from its rules.
const OUTER_MAX: usize = 20_000;
/// Messages and texts in the rules about callers of a listener: `config` refuses rules that come to more than 240,000.
const RULES_MAX: usize = ELEMENTS_MAX;
const OUTER_LAYERS: usize = 2;
/// Deeper than anything that is read.
const LAYERS_MAX: usize = 32;

/// Where the rules about callers lie in a listener, by the numbers of the fields on the way: its chains of filters or its
/// `api_listener`, the connection manager in it, the RBAC filters in that, and their policies.
const RULES_IN: [&[u32]; 2] = [&[3, 3, 4, 2, 5, 4, 2, 1, 2], &[19, 1, 2, 5, 4, 2, 1, 2]];

/// Refuses a resource of this kind that would take far more memory than its bytes say.
pub(crate) fn bounded(resource: &[u8], kind: Kind) -> Result<(), String> {
    let (max, outer_max) = match kind {
        Kind::Endpoints => (ELEMENTS_MAX, ELEMENTS_MAX),
        Kind::Listener => (OUTER_MAX, OUTER_MAX),
        Kind::Cluster | Kind::Routes => (ELEMENTS_MAX, OUTER_MAX),
    };
    let ways: &[&[u32]] = if kind == Kind::Listener { &RULES_IN } else { &[] };
    let mut counted = Counted { all: 0, outer: 0, rules: 0, max, outer_max };
    counted.add(resource, 0, ways);
    match () {
        () if counted.rules > RULES_MAX => Err(format!("more than {RULES_MAX} elements in its rules")),
        () if counted.all > max => Err(format!("more than {max} elements")),
        () if counted.outer > outer_max => Err(format!("more than {outer_max} elements in its outer layers")),
        () => Ok(()),
    }
}

struct Counted {
    all: usize,
    outer: usize,
    rules: usize,
    max: usize,
    outer_max: usize,
}

impl Counted {
    /// Counts what may be messages. A text may look like some; what breaks off halfway counts up to there, as it is read up
    /// to there. `ways`: what is left of the ways to the rules; one with nothing left has come to them.
    fn add(&mut self, mut message: &[u8], layer: usize, ways: &[&[u32]]) {
        let is_rules = ways.iter().any(|way| way.is_empty());
        while !message.is_empty()
            && self.all <= self.max
            && self.outer <= self.outer_max
            && self.rules <= RULES_MAX
        {
            let Ok((tag, wire_type)) = decode_key(&mut message) else { return };
            if wire_type != WireType::LengthDelimited {
                if skip_field(wire_type, tag, &mut message, DecodeContext::default()).is_err() {
                    return;
                }
                continue;
            }
            let length = decode_varint(&mut message).ok().and_then(|length| usize::try_from(length).ok());
            let Some((inner, rest)) = length.and_then(|length| message.split_at_checked(length)) else {
                return;
            };
            let mut left: [&[u32]; RULES_IN.len()] = Default::default();
            let mut open = 0;
            for way in ways {
                match way.split_first() {
                    Some((next, rest)) if *next == tag => left[open] = rest,
                    Some(_) => continue,
                    None => {}
                }
                open += 1;
            }
            let ways = &left[..open];
            if is_rules || ways.iter().any(|way| way.is_empty()) {
                self.rules += 1;
            } else {
                self.all += 1;
                self.outer += usize::from(layer < OUTER_LAYERS);
            }
            if layer < LAYERS_MAX {
                self.add(inner, layer + 1, ways);
            }
            message = rest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field 2, of any length.
    fn field(inner: &[u8]) -> Vec<u8> {
        let mut message = vec![0x12];
        prost::encoding::encode_varint(inner.len() as u64, &mut message);
        message.extend_from_slice(inner);
        message
    }

    #[test]
    fn two_bytes_that_become_a_route_or_an_endpoint_each_have_a_bound() {
        let empty = |count: usize| field(&[0x12, 0].repeat(count));
        assert_eq!(bounded(&empty(OUTER_MAX - 1), Kind::Routes), Ok(()));
        assert!(bounded(&empty(OUTER_MAX), Kind::Routes).is_err());
        assert_eq!(bounded(&empty(ELEMENTS_MAX - 1), Kind::Endpoints), Ok(()));
        assert!(bounded(&empty(ELEMENTS_MAX), Kind::Endpoints).is_err());
        let deep = |count| field(&field(&empty(count)));
        assert!(bounded(&deep(ELEMENTS_MAX), Kind::Routes).is_err(), "however deep");
        assert_eq!(bounded(&deep(OUTER_MAX), Kind::Routes), Ok(()));
        assert!(bounded(&deep(OUTER_MAX), Kind::Listener).is_err());
        let broken = [empty(ELEMENTS_MAX), vec![0x12, 0xff]].concat();
        assert!(bounded(&broken, Kind::Endpoints).is_err(), "what breaks off is read up to there");
    }

    #[test]
    fn rules_about_callers_have_a_bound_of_their_own_and_what_stands_beside_them_keeps_its() {
        let at = |way: &[u32], inner: Vec<u8>| {
            way.iter().rev().fold(inner, |inner, tag| {
                let mut message = Vec::new();
                prost::encoding::encode_key(*tag, WireType::LengthDelimited, &mut message);
                prost::encoding::encode_varint(inner.len() as u64, &mut message);
                message.extend_from_slice(&inner);
                message
            })
        };
        for way in RULES_IN {
            assert_eq!(bounded(&at(way, [0x12, 0].repeat(RULES_MAX - 1)), Kind::Listener), Ok(()));
            assert!(bounded(&at(way, [0x12, 0].repeat(RULES_MAX)), Kind::Listener).is_err());
            for beside in 0..way.len() {
                let way = &way[..beside];
                // No field of these numbers leads on to the rules.
                let many = at(way, [0x7a, 0].repeat(OUTER_MAX + 1));
                assert!(bounded(&many, Kind::Listener).is_err(), "beside {way:?}");
            }
        }
    }

    #[test]
    fn what_is_as_large_as_it_looks_is_read() {
        assert_eq!(bounded(&field(&vec![b'x'; 4 << 20]), Kind::Routes), Ok(()));
        assert_eq!(bounded(b"no protobuf at all", Kind::Routes), Ok(()));
        // No stack is too small for one inside the other.
        let nested = (0..10_000).fold(Vec::new(), |nested, _| field(&nested));
        assert_eq!(bounded(&nested, Kind::Routes), Ok(()));
    }
}
