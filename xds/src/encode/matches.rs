//! What a call must look like: `Match` as RouteMatch.

use config::model::{HeaderMatch, HeaderValueMatch, Match, MethodMatch};
use regex::Regex;

use crate::audience::Client;
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

/// Headers of one route that are turned around and may be missing; each doubles the routes that say so to others.
pub(crate) const EITHER_MAX: usize = 3;

/// For Envoy and gRPC: the host is the virtual host's. There are several where only several say the same, and none where no
/// call can match.
pub(crate) fn foreign(matches: &Match, client: &Client) -> Vec<RouteMatch> {
    let mut path = path(matches);
    let mut headers = Vec::new();
    if let Some(service) = &matches.service {
        let whole = format!("/{service}/");
        match &path {
            PathSpecifier::Path(exact) if !exact.starts_with(&whole) => return Vec::new(),
            PathSpecifier::Prefix(prefix) if prefix.starts_with(&whole) => {}
            PathSpecifier::Prefix(prefix) if whole.starts_with(prefix) => path = PathSpecifier::Prefix(whole),
            PathSpecifier::Prefix(_) => return Vec::new(),
            PathSpecifier::SafeRegex(_) => headers.push(string(":path", MatchPattern::Prefix(whole))),
            _ => {}
        }
    }
    let mut all = vec![headers];
    let mut splits = 0;
    for header in &matches.headers {
        let split = either(header, client) && splits < EITHER_MAX;
        if split {
            splits += 1;
            let mut missing = all.clone();
            missing.iter_mut().for_each(|headers| headers.push(absent(&header.name)));
            let present = HeaderMatcher { treat_missing_header_as_empty: false, ..self::header(header) };
            all.iter_mut().for_each(|headers| headers.push(present.clone()));
            all.extend(missing);
        } else {
            all.iter_mut().for_each(|headers| headers.push(self::header(header)));
        }
    }
    let whole = |headers| RouteMatch { headers, path_specifier: Some(path.clone()), ..RouteMatch::default() };
    all.into_iter().map(whole).collect()
}

/// Whether one matcher cannot say that a call without the header matches too: gRPC has no word for it, and Envoy's takes a
/// missing header as an empty one.
pub(crate) fn either(header: &HeaderMatch, client: &Client) -> bool {
    header.invert
        && !matches!(header.value, HeaderValueMatch::Present(_))
        && (*client == Client::Grpc || takes_nothing(header))
}

fn absent(name: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        invert_match: true,
        ..HeaderMatcher::default()
    }
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

/// A header, as xDS has it.
pub(crate) fn header(header: &HeaderMatch) -> HeaderMatcher {
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
