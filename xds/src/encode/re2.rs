//! Which regular expressions Envoy and gRPC (RE2) read the way that we do.
//!
//! One that they cannot read would have them refuse all routes at once, so that only what is sure to be the same goes out.

use config::model::{HeaderValueMatch, Match, MethodMatch};

use crate::encode::matches::inner;

/// The most repetitions that RE2 reads.
const REPEATS_MAX: u32 = 1_000;

/// Escapes that mean the same in both. `\d`, `\s` and `\w` are wider here than there by letters beyond ASCII, which no method
/// and no header value has.
const ESCAPES: &[u8] = b"dDsSwWbBAzntrfva";

/// Whether all regular expressions of a match are read the same.
pub(crate) fn plain(matches: &Match) -> bool {
    let method = match &matches.method {
        Some(MethodMatch::Regex(regex)) => same(inner(regex)),
        _ => true,
    };
    method
        && matches.headers.iter().all(|header| match &header.value {
            HeaderValueMatch::Regex(regex) => same(inner(regex)),
            _ => true,
        })
}

/// Whether a regular expression that is valid here is read the same by RE2.
pub(crate) fn same(regex: &str) -> bool {
    if !regex.is_ascii() {
        return false;
    }
    let bytes = regex.as_bytes();
    let (mut i, mut in_class) = (0, false);
    while i < bytes.len() {
        let rest = &bytes[i + 1..];
        match bytes[i] {
            b'\\' => {
                match rest.first() {
                    Some(escaped) if escaped.is_ascii_punctuation() && !b"<>".contains(escaped) => {}
                    Some(escaped)
                        if ESCAPES.contains(escaped) && !(in_class && b"bBAz".contains(escaped)) => {}
                    _ => return false,
                }
                // `\b{start}` is a boundary of ours.
                if rest.first() == Some(&b'b') && rest.get(1) == Some(&b'{') {
                    return false;
                }
                i += 1;
            }
            b'[' if in_class => return false,
            b'[' => {
                in_class = true;
                // A bracket that is first in a class belongs to it.
                if rest.first() == Some(&b'^') {
                    i += 1;
                }
                if bytes.get(i + 1) == Some(&b']') {
                    i += 1;
                }
            }
            b']' => in_class = false,
            b'&' | b'~' | b'-' if in_class && rest.first() == Some(&bytes[i]) => return false,
            b'(' if !in_class && rest.first() == Some(&b'?') => {
                let flags = rest[1..].iter().take_while(|byte| b"is-".contains(byte)).count();
                match rest.get(1 + flags) {
                    Some(b':' | b')') => {}
                    _ => return false,
                }
            }
            b'{' if !in_class => {
                let Some(end) = rest.iter().position(|byte| *byte == b'}') else { return false };
                let counts = regex[i + 1..i + 1 + end].split(',');
                let fit = |(place, count): (usize, &str)| {
                    count.parse::<u32>().map_or(place == 1 && count.is_empty(), |count| count <= REPEATS_MAX)
                };
                if !counts.enumerate().all(fit) {
                    return false;
                }
                i += end;
            }
            _ => {}
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_read_alike_goes_out() {
        for regex in [
            "",
            "a",
            "v[0-9]+",
            r"shop\.(Order|Cart)Service/.*",
            "[^a-z]{2,3}?",
            "(?i)a",
            "(?:a|b)*",
            r"[\d.-]",
            "a{3}",
            "a{3,}",
            r"\bx\b",
            "[]a]",
            "[^]a]",
            "(?i-s:a)",
            r"\{",
            "[a&b]",
        ] {
            assert!(regex::Regex::new(regex).is_ok(), "{regex}");
            assert!(same(regex), "{regex}");
        }
    }

    #[test]
    fn what_they_may_read_otherwise_stays_here() {
        for regex in [
            "é",
            "[a-z&&[^b]]",
            "[a--b]",
            "[a~~b]",
            "[[:alpha:]]",
            "(?x) a",
            "(?P<n>a)",
            "(?<n>a)",
            r"\u{61}",
            r"\x61",
            r"\p{Greek}",
            "a{1001}",
            r"\b{start}x",
            "(?R)a",
            "(?U)a+",
            r"\<x",
        ] {
            assert!(!same(regex), "{regex}");
        }
    }
}
