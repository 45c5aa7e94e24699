//! What a call must look like: RouteMatch as `Match`.

use config::model::{HeaderMatch, HeaderValueMatch, Match, MethodMatch};

use crate::decode::at::{At, understood};
use crate::decode::patterns::{self, Pattern};
use crate::pb::route::header_matcher::HeaderMatchSpecifier;
use crate::pb::route::route_match::PathSpecifier;
use crate::pb::route::{HeaderMatcher, RouteMatch};
use crate::private::Reader;
use crate::refusal::Refusal;

/// Reads a match, with what is said beside it.
pub(crate) fn read(matches: &RouteMatch, private: &mut Reader<'_>, at: &At<'_>) -> Result<Match, Refusal> {
    understood! {
        matches => RouteMatch, at;
        take { headers, path_specifier, case_sensitive }
        ignore {}
        refuse "calls are not drawn by lot to a route; give the cluster a weight" { runtime_fraction }
        refuse "gRPC has no query" { query_parameters }
        refuse "a match by this is not possible; match the method, the host or a header" {
            cookies, grpc, tls_context, dynamic_metadata, filter_state
        }
    }
    if case_sensitive.is_some_and(|sensitive| !sensitive.value) {
        return Err(at
            .field("case_sensitive")
            .refuse("methods are told apart by case; write true, or a regular expression"));
    }
    let prefix_is_method = private.flag("method_prefix")?;
    let or_missing = private.integers("or_missing", u64::from(u16::MAX))?.unwrap_or_default();
    let mut read = Match::default();
    path(path_specifier.as_ref(), prefix_is_method, &mut read, at)?;
    for (i, matcher) in headers.iter().enumerate() {
        let at = at.item("headers", i);
        match matcher.name.to_ascii_lowercase().as_str() {
            ":authority" | "host" => host(matcher, &mut read, &at)?,
            ":path" => service(matcher, &mut read, &at)?,
            name if name.starts_with(':') => {
                return Err(at
                    .field("name")
                    .refuse(format!("`{name}` cannot be matched; `:authority` and `:path` can")));
            }
            name => {
                let missing = or_missing.contains(&(read.headers.len() as u64));
                header(name, matcher, missing, &mut read.headers, &at)?;
            }
        }
    }
    Ok(read)
}

fn path(
    path: Option<&PathSpecifier>,
    prefix_is_method: bool,
    read: &mut Match,
    at: &At<'_>,
) -> Result<(), Refusal> {
    let slash = |field: &str, path: &str| match path.strip_prefix('/') {
        Some(rest) => Ok(rest.to_owned()),
        None => Err(at
            .field(field)
            .refuse(format!("the path {path:?} does not begin with a slash, and no call's does"))),
    };
    match path {
        None => return Err(at.refuse("there is no path; write `prefix: /` for every call")),
        Some(PathSpecifier::Prefix(prefix)) if prefix.is_empty() || prefix == "/" => {}
        Some(PathSpecifier::Prefix(prefix)) => {
            let prefix = slash("prefix", prefix)?;
            match prefix.strip_suffix('/') {
                Some(service) if !prefix_is_method && patterns::is_service(service) => {
                    read.service = Some(service.to_owned());
                }
                _ => read.method = Some(MethodMatch::Prefix(prefix)),
            }
        }
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            let service = slash("path_separated_prefix", prefix)?;
            if !patterns::is_service(&service) {
                let why = "what stands before the slash is a gRPC service, as `/shop.Orders`";
                return Err(at.field("path_separated_prefix").refuse(why));
            }
            read.service = Some(service);
        }
        Some(PathSpecifier::Path(path)) => read.method = Some(MethodMatch::Exact(slash("path", path)?)),
        Some(PathSpecifier::SafeRegex(regex)) => {
            let at = at.field("safe_regex");
            let text = patterns::of_matcher(regex, &at)?;
            let Some(text) = patterns::without_slash(text) else {
                return Err(
                    at.refuse("each of its alternatives must begin with a slash, as `/shop\\.Orders/.*`")
                );
            };
            read.method = Some(MethodMatch::Regex(patterns::compile(&text, &at)?));
        }
        Some(PathSpecifier::ConnectMatcher(_)) => {
            return Err(at.field("connect_matcher").refuse("CONNECT is not a call"));
        }
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            return Err(at
                .field("path_match_policy")
                .refuse("path matching is not extended; write prefix, path or safe_regex"));
        }
    }
    Ok(())
}

/// `:authority`: a host, with or without a port.
fn host(matcher: &HeaderMatcher, read: &mut Match, at: &At<'_>) -> Result<(), Refusal> {
    let why = "`:authority` is matched by one host: exact, or as `host(?::[0-9]+)?` with any port";
    let host = match plain(matcher, at)? {
        // Calls are told apart by host alone: a route for one port would never be taken.
        Some(Pattern::Exact(host)) if !patterns::is_host(&host.to_ascii_lowercase()) => {
            return Err(
                at.refuse("`:authority` is matched by a host without a port; ports are limited by `domains`")
            );
        }
        Some(Pattern::Exact(host)) => host,
        Some(Pattern::Regex(regex)) => match patterns::host(&regex) {
            Some(host) => host,
            None => return Err(at.refuse(why)),
        },
        Some(Pattern::Prefix(_)) | None => return Err(at.refuse(why)),
    };
    if read.host.replace(host.to_ascii_lowercase()).is_some() {
        return Err(at.refuse("the host is matched twice"));
    }
    Ok(())
}

/// `:path`: a gRPC service, beside a match of the method.
fn service(matcher: &HeaderMatcher, read: &mut Match, at: &At<'_>) -> Result<(), Refusal> {
    let service = match plain(matcher, at)? {
        Some(Pattern::Prefix(prefix)) => {
            prefix.strip_prefix('/').and_then(|prefix| prefix.strip_suffix('/')).map(str::to_owned)
        }
        Some(Pattern::Exact(_) | Pattern::Regex(_)) | None => None,
    };
    let Some(service) = service.filter(|service| patterns::is_service(service)) else {
        return Err(at.refuse(
            "the header `:path` is matched by the prefix of a gRPC service only, as `/shop.Orders/`",
        ));
    };
    if read.service.replace(service).is_some() {
        return Err(at.refuse("the service is matched twice"));
    }
    Ok(())
}

/// The pattern of a header that must be there; `None` where it is turned around or another kind of match.
fn plain(matcher: &HeaderMatcher, at: &At<'_>) -> Result<Option<Pattern>, Refusal> {
    let HeaderMatcher { name: _, invert_match, treat_missing_header_as_empty, header_match_specifier } =
        matcher;
    if *invert_match || *treat_missing_header_as_empty {
        return Ok(None);
    }
    match header_match_specifier {
        Some(HeaderMatchSpecifier::PresentMatch(_) | HeaderMatchSpecifier::RangeMatch(_)) | None => Ok(None),
        Some(specifier) => pattern(specifier, at).map(Some),
    }
}

#[allow(deprecated)]
fn pattern(specifier: &HeaderMatchSpecifier, at: &At<'_>) -> Result<Pattern, Refusal> {
    match specifier {
        HeaderMatchSpecifier::StringMatch(matcher) => patterns::read(matcher, &at.field("string_match")),
        HeaderMatchSpecifier::ExactMatch(text) => Ok(Pattern::Exact(text.clone())),
        HeaderMatchSpecifier::PrefixMatch(text) => Ok(Pattern::Prefix(text.clone())),
        HeaderMatchSpecifier::SuffixMatch(text) => Ok(patterns::suffix(text, false)),
        HeaderMatchSpecifier::ContainsMatch(text) => Ok(patterns::contains(text, false)),
        HeaderMatchSpecifier::SafeRegexMatch(regex) => {
            let text = patterns::of_matcher(regex, &at.field("safe_regex_match"))?;
            Ok(Pattern::Regex(text.to_owned()))
        }
        HeaderMatchSpecifier::RangeMatch(_) => {
            Err(at.field("range_match").refuse("numbers are not compared; write a regular expression"))
        }
        HeaderMatchSpecifier::PresentMatch(_) => Err(at.field("present_match").refuse("it has no pattern")),
    }
}

/// A header of the call. Envoy and gRPC have a header that is not there match nothing but `present_match`, also where the
/// match is turned around; ours turns that around too. So it may take two entries to say the same.
pub(crate) fn header(
    name: &str,
    matcher: &HeaderMatcher,
    or_missing: bool,
    read: &mut Vec<HeaderMatch>,
    at: &At<'_>,
) -> Result<(), Refusal> {
    let HeaderMatcher {
        name: _,
        invert_match: invert,
        treat_missing_header_as_empty: as_empty,
        header_match_specifier,
    } = matcher;
    patterns::header_name(name, &at.field("name"))?;
    let mut add = |value: HeaderValueMatch, invert: bool| {
        read.push(HeaderMatch { name: name.to_owned(), value, invert });
    };
    let specifier = match header_match_specifier {
        None => {
            add(HeaderValueMatch::Present(true), *invert);
            return Ok(());
        }
        Some(HeaderMatchSpecifier::PresentMatch(present)) => {
            if *as_empty {
                let why = "a header that counts as empty where it is missing is always there";
                return Err(at.field("treat_missing_header_as_empty").refuse(why));
            }
            add(HeaderValueMatch::Present(*present), *invert);
            return Ok(());
        }
        Some(specifier) => specifier,
    };
    let value = match pattern(specifier, at)? {
        Pattern::Exact(text) => HeaderValueMatch::Exact(text),
        Pattern::Prefix(text) if text.is_empty() => HeaderValueMatch::Present(true),
        Pattern::Prefix(text) => HeaderValueMatch::Prefix(text),
        Pattern::Regex(text) => HeaderValueMatch::Regex(patterns::compile(&text, at)?),
    };
    let takes_nothing = match &value {
        HeaderValueMatch::Exact(text) => text.is_empty(),
        HeaderValueMatch::Regex(regex) => regex.is_match(""),
        HeaderValueMatch::Prefix(_) => false,
        HeaderValueMatch::Present(_) => true,
    };
    match (*invert, *as_empty) {
        (false, true) if takes_nothing => {
            return Err(at
                .field("treat_missing_header_as_empty")
                .refuse("a header cannot match both by its value and by being missing; write two routes"));
        }
        (false, _) => add(value, false),
        (true, true) if !takes_nothing || or_missing => add(value, true),
        (true, _) => {
            add(HeaderValueMatch::Present(true), false);
            add(value, true);
        }
    }
    Ok(())
}
