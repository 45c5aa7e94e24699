//! What a call must look like: `Match` as RouteMatch.

use config::model::{HeaderMatch, HeaderValueMatch, Match, MethodMatch};
use regex::Regex;

use crate::pb::matcher::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use crate::pb::route::header_matcher::HeaderMatchSpecifier;
use crate::pb::route::route_match::PathSpecifier;
use crate::pb::route::{HeaderMatcher, RouteMatch};
use crate::private::Fields;

/// For our sidecars: the host is a header, and all that is given is said.
pub(crate) fn ours(matches: &Match, private: &mut Fields) -> RouteMatch {
    let mut headers = Vec::new();
    if let Some(host) = &matches.host {
        headers.push(string(":authority", pattern(format!("{}(?::[0-9]+)?", regex::escape(host)))));
    }
    if let (Some(_), Some(service)) = (&matches.method, &matches.service) {
        headers.push(string(":path", MatchPattern::Prefix(format!("/{service}/"))));
    }
    if let Some(MethodMatch::Prefix(prefix)) = &matches.method
        && prefix.ends_with('/')
    {
        // Else it reads as a service.
        private.flag("method_prefix", true);
    }
    let missing =
        matches.headers.iter().enumerate().filter(|(_, header)| header.invert && takes_nothing(header));
    let missing: Vec<u32> = missing.filter_map(|(i, _)| u32::try_from(i).ok()).collect();
    if !missing.is_empty() {
        // Without these headers a call matches, though an empty one would not.
        private.numbers("or_missing", missing);
    }
    headers.extend(matches.headers.iter().map(header));
    RouteMatch { headers, path_specifier: Some(path(matches)), ..RouteMatch::default() }
}

/// For Envoy and gRPC: the host is the virtual host's. `None`: no call can match.
pub(crate) fn foreign(matches: &Match) -> Option<RouteMatch> {
    let mut path = path(matches);
    let mut headers = Vec::new();
    if let Some(service) = &matches.service {
        let whole = format!("/{service}/");
        match &path {
            PathSpecifier::Path(exact) if !exact.starts_with(&whole) => return None,
            PathSpecifier::Prefix(prefix) if prefix.starts_with(&whole) => {}
            PathSpecifier::Prefix(prefix) if whole.starts_with(prefix) => path = PathSpecifier::Prefix(whole),
            PathSpecifier::Prefix(_) => return None,
            PathSpecifier::SafeRegex(_) => headers.push(string(":path", MatchPattern::Prefix(whole))),
            _ => {}
        }
    }
    headers.extend(matches.headers.iter().map(header));
    Some(RouteMatch { headers, path_specifier: Some(path), ..RouteMatch::default() })
}

fn path(matches: &Match) -> PathSpecifier {
    match (&matches.method, &matches.service) {
        (Some(MethodMatch::Exact(method)), _) => PathSpecifier::Path(format!("/{method}")),
        (Some(MethodMatch::Prefix(prefix)), _) => PathSpecifier::Prefix(format!("/{prefix}")),
        (Some(MethodMatch::Regex(regex)), _) => PathSpecifier::SafeRegex(RegexMatcher {
            regex: format!("/(?:{})", inner(regex)),
            ..RegexMatcher::default()
        }),
        (None, Some(service)) => PathSpecifier::Prefix(format!("/{service}/")),
        (None, None) => PathSpecifier::Prefix("/".to_owned()),
    }
}

fn header(header: &HeaderMatch) -> HeaderMatcher {
    let mut matcher = match &header.value {
        HeaderValueMatch::Exact(exact) => string(&header.name, MatchPattern::Exact(exact.clone())),
        HeaderValueMatch::Prefix(prefix) => string(&header.name, MatchPattern::Prefix(prefix.clone())),
        HeaderValueMatch::Regex(regex) => string(&header.name, pattern(inner(regex).to_owned())),
        HeaderValueMatch::Present(present) => HeaderMatcher {
            name: header.name.clone(),
            header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(*present)),
            ..HeaderMatcher::default()
        },
    };
    matcher.invert_match = header.invert;
    // A call without the header matches what is turned around. Envoy has it match nothing, unless it counts as empty.
    matcher.treat_missing_header_as_empty =
        header.invert && !matches!(header.value, HeaderValueMatch::Present(_));
    matcher
}

/// Whether an empty value matches, invert aside.
pub(crate) fn takes_nothing(header: &HeaderMatch) -> bool {
    match &header.value {
        HeaderValueMatch::Exact(exact) => exact.is_empty(),
        HeaderValueMatch::Prefix(prefix) => prefix.is_empty(),
        HeaderValueMatch::Regex(regex) => regex.is_match(""),
        HeaderValueMatch::Present(_) => false,
    }
}

fn string(name: &str, pattern: MatchPattern) -> HeaderMatcher {
    let matcher = StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() };
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
        ..HeaderMatcher::default()
    }
}

fn pattern(regex: String) -> MatchPattern {
    MatchPattern::SafeRegex(RegexMatcher { regex, ..RegexMatcher::default() })
}

/// What was written: the model's regular expressions are anchored, those of xDS match the whole text anyway.
pub(crate) fn inner(regex: &Regex) -> &str {
    let text = regex.as_str();
    text.strip_prefix("^(?:").and_then(|text| text.strip_suffix(")$")).unwrap_or(text)
}
