//! Admits and routes a call: everything that is decided before an endpoint is picked. Reads tables only.

use std::borrow::Cow;
use std::time::Duration;

use config::model::{Deadline, Stream};
use config::repeats::Repeats;
use config::spiffe::SpiffeId;
use http::HeaderMap;
use http::request::Parts;
use tokio::time::Instant;

use crate::call::deadline::{granted, inherited, shed};
use crate::call::head::TIMEOUT;
use crate::call::origin::{Origin, Via, Way};
use crate::call::trail::Trail;
use crate::context::{Context, Shared};
use crate::demand::PATIENCE;
use crate::failure::{Failure, QUOTE_BYTES_MAX, Reason, clip};
use crate::grpc::status::Code;
use crate::grpc::timeout;
use crate::local::{Local, Target};
use crate::metrics::median::{Median, Weight};
use crate::passage::{PASSTHROUGH, Passage};
use crate::record::call::RouteName;
use crate::tables::authorize::Authorization;
use crate::tables::faults::Faults;
use crate::tables::headers::HeaderRules;
use crate::tables::hosts::Authority;
use crate::tables::routes::{Asked, Route};
use crate::tables::rules::{Groups, Verdict};
use crate::tables::seen::Seen;
use crate::tables::{MethodTable, Methods, ServiceTable, Tables};

/// What is called.
#[derive(Debug)]
pub(crate) struct Called<'a, 'o> {
    pub(crate) callee: Callee<'o>,
    /// `package.Service/Method`; of a request that is not gRPC the path.
    pub(crate) method: &'a str,
    authority: Authority<'a>,
}

/// Who is called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Callee<'a> {
    /// A service of the mesh, as index into `Tables::services`.
    Service(usize),
    /// What a redirected connection was going to.
    Elsewhere(&'a Passage),
}

impl Callee<'_> {
    /// As logs name it.
    pub(crate) fn name<'a>(&self, local: &'a Local) -> &'a str {
        match self {
            Self::Service(service) => &local.tables.services[*service].name,
            Self::Elsewhere(_) => PASSTHROUGH,
        }
    }

    /// What is known of its methods.
    pub(crate) fn methods<'a>(&self, local: &'a Local) -> &'a Methods {
        match self {
            Self::Service(service) => &local.tables.services[*service].methods,
            Self::Elsewhere(_) => &local.no_methods,
        }
    }
}

/// Where an admitted call goes and what holds for it.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) target: Target<'a>,
    /// How long it may take, from when it came.
    pub(crate) granted: Option<Duration>,
    /// How long it may be silent.
    pub(crate) idle: Option<Duration>,
    pub(crate) headers: Option<&'a HeaderRules>,
    /// Of outbound calls.
    pub(crate) route: Option<RouteName>,
    /// When the call may go out more than once.
    pub(crate) repeats: &'a Repeats,
    /// It may be processed more than once.
    pub(crate) idempotent: bool,
    /// What is done to it on purpose; of outbound calls.
    pub(crate) faults: Option<&'a Faults>,
    /// Where it is counted how long it took.
    pub(crate) median: Option<(&'a Median, Weight)>,
}

impl<'a> Plan<'a> {
    /// Where no route says anything.
    fn plain(target: Target<'a>, granted: Option<Duration>) -> Self {
        Self {
            target,
            granted,
            idle: None,
            headers: None,
            route: None,
            repeats: &Repeats::Unprocessed,
            idempotent: true,
            faults: None,
            median: None,
        }
    }
}

/// Why it is not known what is called.
pub(crate) enum Unidentified<'o> {
    /// Nobody could take the request.
    Failed(Failure),
    /// There is no mesh yet.
    NoMesh,
    /// No service of the snapshot has the host that is called.
    Host {
        host: Box<str>,
        /// What becomes of the call if nobody else knows better.
        otherwise: Result<&'o Passage, Failure>,
    },
}

impl Unidentified<'_> {
    /// The end of a call that does not wait until more is known.
    pub(crate) fn failure(self) -> Failure {
        match self {
            Self::Failed(failure) | Self::Host { otherwise: Err(failure), .. } => failure,
            Self::NoMesh => no_config(),
            Self::Host { host, otherwise: Ok(_) } => unknown_service(&host),
        }
    }
}

/// The end of a call that has waited in vain for what all calls need.
pub(crate) fn not_begun(shared: &Shared) -> Failure {
    match shared.no_identity.load_full() {
        Some(why) => Failure::unprocessed(Reason::NoIdentity, format!("no identity yet: {why}")),
        None => no_config(),
    }
}

/// The end of a call for which there is no mesh.
pub(crate) fn no_config() -> Failure {
    let message = format!("no config yet: no mesh has come from the control plane within {PATIENCE:?}");
    Failure::unprocessed(Reason::NoConfig, message)
}

fn unknown_service(host: &str) -> Failure {
    let message = format!("no service of the mesh answers to `{}`", quote(host));
    Failure::new(Reason::UnknownService, Code::Unavailable, message)
}

/// Reads what is called; fails on a request that no service of the snapshot could take.
pub(crate) fn identify<'a, 'o: 'a>(
    tables: &Tables,
    origin: &'o Origin,
    parts: &'a Parts,
    grpc: bool,
) -> Result<Called<'a, 'o>, Unidentified<'o>> {
    let method = parts.uri.path().strip_prefix('/').unwrap_or_default();
    if grpc {
        check_method(method).map_err(Unidentified::Failed)?;
    }
    let authority = parts.uri.authority().map_or("", |authority| authority.as_str());
    let mut authority = Authority::parse(authority);
    let callee = match &origin.way {
        // Only where there is no mesh yet there are no entries.
        Way::Inbound { entry, .. } => match tables.entries.get(*entry) {
            Some(entry) => Callee::Service(entry.service),
            None => return Err(Unidentified::NoMesh),
        },
        Way::Outbound(Via::Authority) => Callee::Service(service_of(tables, &authority)?),
        Way::Outbound(Via::Connect { host, port }) => {
            authority = Authority { host: Cow::Borrowed(host), port: Some(*port) };
            Callee::Service(service_of(tables, &authority)?)
        }
        Way::Outbound(Via::Redirected(None)) => Callee::Service(service_of(tables, &authority)?),
        Way::Outbound(Via::Redirected(Some(passage))) => match tables.hosts.find(&authority.host) {
            Some(service) if tables.services[service].has_port(authority.port) => Callee::Service(service),
            Some(_) => Callee::Elsewhere(passage),
            None => return Err(unknown_host(tables, &authority, Ok(passage))),
        },
    };
    Ok(Called { callee, method, authority })
}

/// Refuses what is not `package.Service/Method`.
pub(crate) fn check_method(method: &str) -> Result<(), Failure> {
    if method.contains('/') {
        return Ok(());
    }
    let message = "the path is not /package.Service/Method";
    Err(Failure::new(Reason::MalformedRequest, Code::Internal, message))
}

/// What a call is that goes where its connection was going.
pub(crate) fn elsewhere<'a, 'o: 'a>(parts: &'a Parts, passage: &'o Passage) -> Called<'a, 'o> {
    let authority = parts.uri.authority().map_or("", |authority| authority.as_str());
    let method = parts.uri.path().strip_prefix('/').unwrap_or_default();
    Called { callee: Callee::Elsewhere(passage), method, authority: Authority::parse(authority) }
}

/// The service that answers to an authority, as index into `Tables::services`.
pub(crate) fn service_of<'o>(tables: &Tables, authority: &Authority<'_>) -> Result<usize, Unidentified<'o>> {
    let Some(service) = tables.hosts.find(&authority.host) else {
        return Err(unknown_host(tables, authority, Err(unknown_service(&authority.host))));
    };
    let table = &tables.services[service];
    match authority.port {
        Some(port) if !table.has_port(Some(port)) => {
            let listed: Vec<String> = table.ports.iter().map(u16::to_string).collect();
            let listed = listed.join(", ");
            let message = format!("service {} has no port {port}; it has {listed}", table.name);
            Err(Unidentified::Failed(Failure::new(Reason::UnknownService, Code::Unavailable, message)))
        }
        _ => Ok(service),
    }
}

#[cold]
fn unknown_host<'o>(
    tables: &Tables,
    authority: &Authority<'_>,
    otherwise: Result<&'o Passage, Failure>,
) -> Unidentified<'o> {
    match tables.has_mesh {
        true => Unidentified::Host { host: authority.host.as_ref().into(), otherwise },
        false => Unidentified::NoMesh,
    }
}

/// A request that asks to be admitted.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'r> {
    pub(crate) headers: &'r HeaderMap,
    pub(crate) grpc: bool,
    pub(crate) began: Instant,
    pub(crate) trail: &'r Trail,
}

/// Admits the call and finds its way, or says why not.
pub(crate) fn admit<'a>(
    context: &Context,
    local: &'a Local,
    origin: &Origin,
    called: &Called<'_, 'a>,
    request: Arrival<'_>,
) -> Result<Plan<'a>, Failure> {
    let Arrival { headers, grpc, began, trail } = request;
    let tables = &*local.tables;
    let asked = asked(headers, grpc)?;
    let plan = match &origin.way {
        Way::Inbound { entry, peer, standing, .. } => {
            let entry = &tables.entries[*entry];
            if origin.link.is_distrusted() {
                return Err(distrusted(peer.as_ref()));
            }
            let rules = &entry.authorization;
            let groups = standing.groups(rules, peer.as_ref());
            let verdict = may(rules, &groups, called.method, Seen::all(headers), grpc);
            if !entry.in_mesh {
                return Err(not_in_mesh(called.callee.name(local)));
            }
            rules.count(verdict, context.index);
            trail.judged(rules, verdict);
            if !verdict.allowed {
                return Err(not_allowed(peer.as_ref(), called.method));
            }
            let method = called.callee.methods(local).get(called.method);
            let cap = method.and_then(|method| method.deadline).unwrap_or(entry.deadline).max;
            let granted = granted(asked, Deadline { max: cap, ..Deadline::default() });
            Plan::plain(local.target(entry.cluster), granted)
        }
        Way::Outbound(_) => match called.callee {
            Callee::Service(service) => outbound(context, local, service, called, headers, asked, began)?,
            Callee::Elsewhere(passage) => Plan::plain(passage.target(), asked),
        },
    };
    check_time(plan.granted)?;
    Ok(plan)
}

/// How long a call asks to take; `None`: it does not say.
#[inline(always)]
pub(crate) fn asked(headers: &HeaderMap, grpc: bool) -> Result<Option<Duration>, Failure> {
    let Some(value) = headers.get(TIMEOUT).filter(|_| grpc) else { return Ok(None) };
    timeout::parse(value.as_bytes()).map(Some).map_err(|_| {
        let message = "grpc-timeout is not 1 to 8 digits and one of H, M, S, m, u, n";
        Failure::new(Reason::MalformedTimeout, Code::Internal, message)
    })
}

/// Refuses a call that has no time.
#[inline(always)]
pub(crate) fn check_time(granted: Option<Duration>) -> Result<(), Failure> {
    if granted == Some(Duration::ZERO) {
        let message = "the call came with no time left";
        return Err(Failure::new(Reason::DeadlineExceeded, Code::DeadlineExceeded, message));
    }
    Ok(())
}

/// What rules make of a call by a caller of these groups. Where they go by what it calls, another spelling of a path must not pass
/// them: servers may take it for the one that they name.
#[inline(always)]
pub(crate) fn may(
    rules: &Authorization,
    groups: &Groups,
    method: &str,
    seen: Seen<'_>,
    grpc: bool,
) -> Verdict {
    let verdict = rules.decide(groups, method, seen);
    let ambiguous = match grpc {
        true => groups.by_method && !is_method(method),
        false => {
            is_ambiguous(method) && !rules.allows_all(groups) || groups.by_method && has_empty_segment(method)
        }
    };
    match ambiguous {
        true => Verdict { allowed: false, by: None, ambiguous, ..verdict },
        false => verdict,
    }
}

/// The end of a call that the rules refuse.
pub(crate) fn not_allowed(peer: Option<&SpiffeId>, method: &str) -> Failure {
    let who = peer.map_or("a caller without an identity", |id| id.as_str());
    let message = format!("{who} may not call {}", quote(method));
    Failure::new(Reason::NotAllowed, Code::PermissionDenied, message)
}

/// The end of a call on a connection whose caller proves nothing any more.
fn distrusted(peer: Option<&SpiffeId>) -> Failure {
    let who = peer.map_or("a caller without an identity", |id| id.as_str());
    let message = format!("the certificate of {who} no longer leads to a root that is trusted here");
    Failure::unprocessed(Reason::Revoked, message).with_code(Code::PermissionDenied)
}

/// The end of an inbound call to a service of which the mesh says nothing: nobody knows who may call it.
fn not_in_mesh(service: &str) -> Failure {
    let message = format!(
        "no config: the mesh that the control plane has sent lacks service {service}, or who may call it"
    );
    Failure::unprocessed(Reason::NoConfig, message)
}

/// Whether a path is `package.Service/Method` and nothing else: what rules name is.
fn is_method(path: &str) -> bool {
    let is_name = |part: &str| {
        part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && part.bytes().next().is_some_and(|b| !b.is_ascii_digit())
    };
    path.split_once('/').is_some_and(|(service, method)| service.split('.').all(is_name) && is_name(method))
}

/// Whether servers of HTTP may take a path for the one without its empty segments.
fn has_empty_segment(path: &str) -> bool {
    !path.is_empty() && path.split('/').any(str::is_empty)
}

/// Whether servers of HTTP may take a path for another one than stands here, so that it proves nothing to a rule.
fn is_ambiguous(path: &str) -> bool {
    path.contains(['%', '\\']) || path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// What settles a call of the app before time and chance come in.
#[derive(Debug)]
pub(crate) struct Decision<'a> {
    pub(crate) route: &'a Route,
    /// What is known of the method.
    pub(crate) method: Option<&'a MethodTable>,
    pub(crate) policies: Policies<'a>,
}

/// Decides by which route a call goes and what holds for it. Calls go by this, and so does whoever explains them
/// (`crate::explain`).
// Inlined, so that a call pays for nothing that only an explanation reads.
#[inline(always)]
pub(crate) fn decide<'a>(service: &'a ServiceTable, asked: Asked<'_>) -> Result<Decision<'a>, Failure> {
    let route = service.routes.find(asked).or(service.unrouted.as_ref()).ok_or_else(|| {
        let message = format!("{} has no route for {}", service.name, quote(asked.method));
        Failure::new(Reason::NoRoute, Code::Unimplemented, message)
    })?;
    let method = service.methods.get(asked.method);
    Ok(Decision { route, method, policies: policies(method, route) })
}

fn outbound<'a>(
    context: &Context,
    local: &'a Local,
    service: usize,
    called: &Called<'_, '_>,
    headers: &HeaderMap,
    asked: Option<Duration>,
    began: Instant,
) -> Result<Plan<'a>, Failure> {
    let service = &local.tables.services[service];
    let Decision { route, method, policies } =
        decide(service, Asked { host: &called.authority.host, method: called.method, headers })?;
    let Policies { deadline, stream, headers: rules, repeats, faults, median } = policies;
    let inherits = asked.is_none() && deadline.inherit;
    let asked = asked.or_else(|| inherits.then(|| inherited(context, headers, began)).flatten());
    let granted = granted(asked, deadline);
    let median = match median {
        Some(median) => Some((median, shed(granted, median.value(), || median.probe(context.index))?)),
        None => None,
    };
    Ok(Plan {
        target: local.target(route.cluster(&mut context.random.borrow_mut())),
        granted,
        idle: stream.idle,
        headers: Some(rules),
        route: Some(route.name),
        repeats,
        idempotent: method.is_none_or(|method| method.idempotent),
        faults,
        median,
    })
}

/// What a caller wrote, as messages repeat it.
fn quote(text: &str) -> &str {
    clip(text, QUOTE_BYTES_MAX)
}

/// The blocks that hold for a call.
#[derive(Debug)]
pub(crate) struct Policies<'a> {
    pub(crate) deadline: Deadline,
    pub(crate) stream: Stream,
    pub(crate) headers: &'a HeaderRules,
    pub(crate) repeats: &'a Repeats,
    pub(crate) faults: Option<&'a Faults>,
    pub(crate) median: Option<&'a Median>,
}

/// A method's block wins over the route's; blocks never merge.
#[inline(always)]
fn policies<'a>(method: Option<&'a MethodTable>, route: &'a Route) -> Policies<'a> {
    let faults = method.and_then(|method| method.faults.as_ref()).unwrap_or(&route.faults);
    // A method with a deadline of its own is counted by itself.
    let median = match method.filter(|method| method.deadline.is_some()) {
        Some(method) => &method.median,
        None => &route.median,
    };
    Policies {
        faults: faults.as_deref(),
        median: median.as_deref(),
        deadline: method.and_then(|method| method.deadline).unwrap_or(route.deadline),
        stream: method.and_then(|method| method.stream).unwrap_or(route.stream),
        headers: method.and_then(|method| method.headers.as_ref()).unwrap_or(&route.headers),
        repeats: method.and_then(|method| method.repeats.as_ref()).unwrap_or(&route.repeats),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_spelling_of_a_method_passes_a_rule_about_it() {
        let model = |rules: &str, default| {
            let text = format!(
                "version: 1\nservices: [{{name: a, inbound: {{authorization: {rules}, authorization_default: {default}}}}}]"
            );
            let mesh = config::parse_mesh(config::Source { name: "mesh", text: &text }).expect("a mesh");
            Authorization::new(mesh.services[0].authorization.as_ref())
        };
        let spellings = [
            "shop.Admin/%44elete",
            "/shop.Admin/Delete",
            "shop.Admin/Delete/",
            "shop.Admin//Delete",
            "shop.Admin/../x.Y/Z",
            "shop.Admin/a;b",
        ];
        let headers = HeaderMap::new();
        for rules in [
            model("[{deny: {methods: [shop.Admin/Delete]}}]", "allow"),
            model("[{deny: {methods: [shop.Admin/*]}}]", "allow"),
            model("[{allow: {methods: [shop.Admin/*]}}]", "deny"),
        ] {
            let groups = rules.groups(None);
            for path in spellings {
                let verdict = may(&rules, &groups, path, Seen::all(&headers), true);
                assert!(!verdict.allowed, "{path}");
            }
        }
        let deny = model("[{deny: {methods: [shop.Admin/Delete]}}]", "allow");
        let groups = deny.groups(None);
        let may = |path, grpc| may(&deny, &groups, path, Seen::all(&headers), grpc);
        assert!(
            may("shop.Admin/Get", true).allowed && may("healthz", false).allowed && may("", false).allowed
        );
        assert!(may("/shop.Admin/Delete", false).ambiguous && may("shop.Admin/Delete/", false).ambiguous);
        // Who is denied nothing by method may call what it likes.
        let others = model(
            "[{deny: {from: [spiffe://cluster.local/ns/a/sa/b], methods: [shop.Admin/Delete]}}]",
            "allow",
        );
        assert!(super::may(&others, &others.groups(None), "a-b/%44", Seen::all(&headers), true).allowed);
    }

    #[test]
    fn a_path_that_may_mean_another_one_is_ambiguous() {
        for path in ["a.Health/..", "./a", "a.B/%2e%2e", "a.B/..%2Fadmin", "a\\b"] {
            assert!(is_ambiguous(path), "{path}");
        }
        for path in ["", "healthz", "a.B/C", "a.B/...", "a.B/C~1"] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }
}
