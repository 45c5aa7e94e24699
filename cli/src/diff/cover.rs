//! Routes that no call comes to, because an earlier one takes them all.

use config::model::{HeaderMatch, HeaderValueMatch, Match, MethodMatch, Service};

/// The routes of a service that an earlier one hides, each with the first that does.
pub(crate) fn hidden(service: &Service) -> Vec<(usize, usize)> {
    let routes = &service.routes;
    let behind =
        |later: usize| (0..later).find(|earlier| covers(&routes[*earlier].matches, &routes[later].matches));
    (0..routes.len()).filter_map(|later| Some((later, behind(later)?))).collect()
}

/// Whether every call that `inner` takes is one that `outer` takes. What cannot be told is taken for no.
fn covers(outer: &Match, inner: &Match) -> bool {
    let host = outer.host.is_none() || outer.host == inner.host;
    host && covers_method(outer, inner) && outer.headers.iter().all(|header| is_asked(header, &inner.headers))
}

/// Looks at what both say of service and method: together they are conditions on one text.
fn covers_method(outer: &Match, inner: &Match) -> bool {
    let service = match (&outer.service, &inner.service, &inner.method) {
        (None, ..) => true,
        (Some(wanted), Some(has), _) if wanted == has => true,
        (Some(wanted), _, Some(MethodMatch::Exact(method))) => service_of(method) == wanted,
        (Some(wanted), _, Some(MethodMatch::Prefix(prefix))) => {
            prefix.split_once('/').is_some_and(|(service, _)| service == wanted)
        }
        _ => false,
    };
    let method = match (&outer.method, &inner.method) {
        (None, _) => true,
        (Some(MethodMatch::Exact(wanted)), Some(MethodMatch::Exact(has))) => wanted == has,
        (Some(MethodMatch::Prefix(wanted)), Some(MethodMatch::Exact(has) | MethodMatch::Prefix(has))) => {
            has.starts_with(wanted.as_str())
        }
        (Some(MethodMatch::Prefix(wanted)), None | Some(MethodMatch::Regex(_))) => {
            // Every method of a service begins with its name and a slash; one without a slash is none.
            inner.service.as_ref().is_some_and(|service| format!("{service}/").starts_with(wanted.as_str()))
        }
        (Some(MethodMatch::Regex(wanted)), Some(MethodMatch::Exact(has))) => wanted.is_match(has),
        (Some(MethodMatch::Regex(wanted)), Some(MethodMatch::Regex(has))) => wanted.as_str() == has.as_str(),
        _ => false,
    };
    service && method
}

fn service_of(method: &str) -> &str {
    method.split('/').next().unwrap_or_default()
}

/// Whether a condition on a header holds wherever `others` hold.
fn is_asked(header: &HeaderMatch, others: &[HeaderMatch]) -> bool {
    others.iter().filter(|other| other.name == header.name).any(|other| {
        let implied = match (&header.value, &other.value) {
            (HeaderValueMatch::Exact(a), HeaderValueMatch::Exact(b)) => a == b,
            (HeaderValueMatch::Prefix(a), HeaderValueMatch::Prefix(b)) if header.invert => a == b,
            (HeaderValueMatch::Prefix(a), HeaderValueMatch::Exact(b) | HeaderValueMatch::Prefix(b)) => {
                !header.invert && b.starts_with(a.as_str())
            }
            (HeaderValueMatch::Regex(a), HeaderValueMatch::Regex(b)) => a.as_str() == b.as_str(),
            (HeaderValueMatch::Regex(a), HeaderValueMatch::Exact(b)) => !header.invert && a.is_match(b),
            (HeaderValueMatch::Present(a), HeaderValueMatch::Present(b)) => a == b,
            (HeaderValueMatch::Present(true), _) => !header.invert && !other.invert,
            _ => false,
        };
        implied && header.invert == other.invert
    })
}

#[cfg(test)]
mod tests {
    use config::{Source, parse_mesh};

    use super::*;

    fn hidden_in(routes: &str) -> Vec<(usize, usize)> {
        let text = format!("version: 1\nservices:\n  - name: a\n    namespace: shop\n    routes:\n{routes}");
        let mesh =
            parse_mesh(Source { name: "mesh", text: &text }).unwrap_or_else(|faults| panic!("{faults}"));
        hidden(&mesh.services[0])
    }

    #[test]
    fn a_route_behind_a_wider_one_is_hidden() {
        for (first, second) in [
            ("{service: a.B}", "{method: a.B/C}"),
            ("{service: a.B}", "{method: {prefix: a.B/C}}"),
            ("{service: a.B}", "{service: a.B, headers: [{name: x, exact: '1'}]}"),
            ("{method: {prefix: a.}}", "{service: a.B}"),
            ("{method: {prefix: a.B/}}", "{method: a.B/C}"),
            ("{method: {regex: 'a\\.B/.*'}}", "{method: a.B/C}"),
            ("{headers: [{name: x, present: true}]}", "{headers: [{name: x, exact: '1'}]}"),
            ("{headers: [{name: x, prefix: a}]}", "{headers: [{name: x, exact: ab}], host: a.shop}"),
            ("{headers: [{name: x, regex: 'v.*'}]}", "{headers: [{name: x, exact: v1}]}"),
        ] {
            let routes = format!("      - {{match: {first}}}\n      - {{match: {second}}}\n");
            assert_eq!(hidden_in(&routes), [(1, 0)], "{first} before {second}");
        }
    }

    #[test]
    fn a_route_that_still_takes_some_calls_is_not() {
        for (first, second) in [
            ("{method: a.B/C}", "{service: a.B}"),
            ("{service: a.B}", "{service: a.C}"),
            ("{service: a.B, headers: [{name: x, exact: '1'}]}", "{method: a.B/C}"),
            ("{method: {prefix: a.B/Cx}}", "{method: {prefix: a.B/C}}"),
            ("{service: a.B}", "{method: {prefix: a.B}}"),
            ("{host: a.shop}", "{method: a.B/C}"),
            ("{headers: [{name: x, exact: '1', invert: true}]}", "{headers: [{name: x, exact: '1'}]}"),
            ("{headers: [{name: x, present: true}]}", "{headers: [{name: x, exact: '1', invert: true}]}"),
            ("{headers: [{name: x, present: false}]}", "{headers: [{name: x, present: true}]}"),
            ("{headers: [{name: x, present: true, invert: true}]}", "{headers: [{name: x, exact: '1'}]}"),
        ] {
            let routes = format!("      - {{match: {first}}}\n      - {{match: {second}}}\n");
            assert_eq!(hidden_in(&routes), [], "{first} before {second}");
        }
    }
}
