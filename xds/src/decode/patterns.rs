//! Patterns of texts: StringMatcher and RegexMatcher.

use config::check;
use regex::{Regex, RegexBuilder};

use crate::decode::at::At;
use crate::pb::matcher::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use crate::refusal::Refusal;

/// The longest text of a pattern, as in `mesh.yaml`.
const TEXT_BYTES_MAX: usize = 4_096;

/// What a text must be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Pattern {
    /// All of it.
    Exact(String),
    /// Its beginning.
    Prefix(String),
    /// All of it, by a regular expression that is not compiled yet.
    Regex(String),
}

/// Reads a matcher.
pub(crate) fn read(matcher: &StringMatcher, at: &At<'_>) -> Result<Pattern, Refusal> {
    let StringMatcher { ignore_case, match_pattern } = matcher;
    let case = |text: &str, behind: &str| Pattern::Regex(format!("(?i){}{behind}", regex::escape(text)));
    Ok(match match_pattern {
        Some(MatchPattern::Exact(text)) if *ignore_case => case(text, ""),
        Some(MatchPattern::Prefix(text)) if *ignore_case => case(text, "(?s:.*)"),
        Some(MatchPattern::Exact(text)) => Pattern::Exact(text.clone()),
        Some(MatchPattern::Prefix(text)) => Pattern::Prefix(text.clone()),
        Some(MatchPattern::Suffix(text)) => suffix(text, *ignore_case),
        Some(MatchPattern::Contains(text)) => contains(text, *ignore_case),
        Some(MatchPattern::SafeRegex(regex)) => {
            Pattern::Regex(of_matcher(regex, &at.field("safe_regex"))?.to_owned())
        }
        Some(MatchPattern::Custom(_)) => {
            return Err(at
                .field("custom")
                .refuse("matchers are not extended; write exact, prefix or safe_regex"));
        }
        None => return Err(at.refuse("there is no pattern; write exact, prefix or safe_regex")),
    })
}

/// A text that ends like this.
pub(crate) fn suffix(text: &str, ignore_case: bool) -> Pattern {
    Pattern::Regex(format!("{}(?s:.*){}", flags(ignore_case), regex::escape(text)))
}

/// A text that has this in it.
pub(crate) fn contains(text: &str, ignore_case: bool) -> Pattern {
    Pattern::Regex(format!("{}(?s:.*){}(?s:.*)", flags(ignore_case), regex::escape(text)))
}

fn flags(ignore_case: bool) -> &'static str {
    if ignore_case { "(?i)" } else { "" }
}

/// The text of a regular expression; its engine has been the same for years.
pub(crate) fn of_matcher<'a>(matcher: &'a RegexMatcher, at: &At<'_>) -> Result<&'a str, Refusal> {
    #[allow(deprecated)]
    let RegexMatcher { regex, engine_type: _ } = matcher;
    if regex.is_empty() {
        return Err(at.field("regex").refuse("there is no regular expression"));
    }
    Ok(regex)
}

/// Compiles a regular expression that must match the whole text, as the model has it.
pub(crate) fn compile(text: &str, at: &At<'_>) -> Result<Regex, Refusal> {
    if text.len() > TEXT_BYTES_MAX {
        let why =
            format!("the regular expression has {} bytes; at most {TEXT_BYTES_MAX} are read", text.len());
        return Err(at.field("regex").refuse(why));
    }
    // Alone first, so that an unbalanced parenthesis cannot undo the anchors.
    let compile = |text: &str| RegexBuilder::new(text).size_limit(check::REGEX_BYTES_MAX).build();
    compile(text).and_then(|_| compile(&format!("^(?:{text})$"))).map_err(|error| {
        let told = error.to_string();
        let last =
            told.lines().last().unwrap_or_default().trim_start_matches("error: ").trim_end_matches('.');
        at.field("regex").refuse(format!("{text:?} is not a regular expression: {last}"))
    })
}

/// A regular expression over a path, as one over `package.Service/Method`: without the slash at its beginning. `None` where
/// it does not plainly begin with one.
pub(crate) fn without_slash(regex: &str) -> Option<String> {
    if let Some(inner) = regex.strip_prefix("/(?:").and_then(|rest| rest.strip_suffix(')'))
        && Regex::new(inner).is_ok()
    {
        return Some(inner.to_owned());
    }
    let alternatives: Option<Vec<&str>> = alternatives(regex)?
        .into_iter()
        .map(|text| {
            let rest = text.strip_prefix('^').unwrap_or(text).strip_prefix('/')?;
            // A slash that is there several times, or not at all, cannot be taken off.
            (!rest.starts_with(['*', '+', '?', '{'])).then_some(rest)
        })
        .collect();
    Some(alternatives?.join("|"))
}

/// The alternatives at the top of a regular expression.
fn alternatives(regex: &str) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut depth, mut in_class) = (Vec::new(), 0, 0_usize, 0_usize);
    let mut bytes = regex.bytes().enumerate();
    while let Some((i, byte)) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next()?;
            }
            b'[' => in_class += 1,
            b']' => in_class = in_class.saturating_sub(1),
            _ if in_class > 0 => {}
            b'(' => depth += 1,
            b')' => depth = depth.checked_sub(1)?,
            b'|' if depth == 0 => {
                parts.push(&regex[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&regex[start..]);
    Some(parts)
}

/// The host of a regular expression that is one host with any port, as we write it.
pub(crate) fn host(regex: &str) -> Option<String> {
    let host = regex.strip_suffix("(?::[0-9]+)?")?.replace("\\.", ".").replace("\\-", "-");
    is_host(&host).then_some(host)
}

/// Whether a text is a host name in lower case.
pub(crate) fn is_host(text: &str) -> bool {
    check::host(text).is_ok()
}

/// Whether a text is `package.Service`.
pub(crate) fn is_service(text: &str) -> bool {
    check::grpc_service(text).is_ok()
}

/// Refuses what is no header name.
pub(crate) fn header_name(name: &str, at: &At<'_>) -> Result<(), Refusal> {
    check::header_name(name).map_err(|why| at.refuse(why))
}
