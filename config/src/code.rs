//! The status codes of gRPC by name, and sets of them.

use crate::walk::Fields;

/// Every code, in the order of its number (gRPC core, `statuscodes.md`).
pub const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

const UNKNOWN: u8 = 2;
const DEADLINE_EXCEEDED: u8 = 4;
const INTERNAL: u8 = 13;
const DATA_LOSS: u8 = 15;
/// The code of a server that cannot be reached.
pub const UNAVAILABLE: u8 = 14;

/// A set of status codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Codes(u32);

impl Codes {
    /// UNAVAILABLE alone.
    pub const UNAVAILABLE: Self = Self(1 << UNAVAILABLE);

    /// Those that tell of a server in trouble and not of what was asked of it: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL,
    /// UNAVAILABLE and DATA_LOSS.
    pub const TROUBLE: Self =
        Self(1 << UNKNOWN | 1 << DEADLINE_EXCEEDED | 1 << INTERNAL | 1 << UNAVAILABLE | 1 << DATA_LOSS);

    /// Whether the code of that number is in it.
    pub fn contains(self, number: u8) -> bool {
        number < CODES.len() as u8 && self.0 >> number & 1 == 1
    }

    /// The names of its codes, by their numbers.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        (0_u8..).zip(CODES).filter_map(move |(number, name)| self.contains(number).then_some(name))
    }
}

impl FromIterator<u8> for Codes {
    fn from_iter<T: IntoIterator<Item = u8>>(numbers: T) -> Self {
        Self(numbers.into_iter().fold(0, |set, number| set | 1 << number))
    }
}

/// The list of codes at `key`; `None` where the key is not there.
pub(crate) fn codes(block: &Fields, key: &str) -> Option<Codes> {
    block.item(key)?;
    let numbers = block.list(key).iter().flatten().filter_map(|item| number(item.text()?));
    Some(numbers.collect())
}

/// The code at `key`.
pub(crate) fn code(block: &Fields, key: &str) -> Option<u8> {
    number(block.text(key)?)
}

fn number(name: &str) -> Option<u8> {
    CODES.iter().position(|known| *known == name).and_then(|number| u8::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_names_it() {
        let set: Codes = [14, 8].into_iter().collect();
        assert!(set.contains(8) && set.contains(14) && !set.contains(0) && !set.contains(200));
        assert_eq!(set.names().collect::<Vec<_>>(), ["RESOURCE_EXHAUSTED", "UNAVAILABLE"]);
        assert_eq!(Codes::UNAVAILABLE.names().collect::<Vec<_>>(), ["UNAVAILABLE"]);
        let trouble = ["UNKNOWN", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];
        assert_eq!(Codes::TROUBLE.names().collect::<Vec<_>>(), trouble);
    }
}
