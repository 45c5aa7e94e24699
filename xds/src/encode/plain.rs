//! The routes of a service as those see them who know nothing of methods: what holds for a method alone is spelled out as
//! routes of its own.

use config::model::{Backend, Match, Method, MethodMatch, Policy, Service, Unmatched};
use config::repeats::Repeats;

/// Routes that are made for methods, per service; past it policies of methods are left out, and `notes` says so.
pub(crate) const DERIVED_MAX: usize = 1_000;

/// A route that says all.
#[derive(Clone, Debug)]
pub(crate) struct Plain {
    /// For people: `routes[2]`, `routes[2] for shop.Orders/Watch`, `unmatched`.
    pub(crate) name: String,
    pub(crate) matches: Match,
    pub(crate) backends: Vec<Backend>,
    pub(crate) policy: Policy,
}

/// The routes of `service`, which is the `index`th of its mesh, and how many were left out.
pub(crate) fn routes(service: &Service, index: usize) -> (Vec<Plain>, usize) {
    let (mut plain, mut derived, mut left_out) = (Vec::new(), 0, 0);
    let mut add = |name: String, matches: &Match, backends: &[Backend], policy: &Policy| {
        let plain_route = |name: String, matches: Match, policy: Policy| Plain {
            name,
            matches,
            backends: backends.to_vec(),
            policy,
        };
        if let Some(MethodMatch::Exact(method)) = &matches.method {
            let policy = service.methods.get(method).map_or(policy.clone(), |known| overlay(policy, known));
            plain.push(plain_route(name, matches.clone(), policy));
            return;
        }
        for (method, known) in &service.methods {
            let policy_of_method = overlay(policy, known);
            if policy_of_method == *policy || !takes(matches, method) {
                continue;
            }
            if derived == DERIVED_MAX {
                left_out += 1;
                continue;
            }
            derived += 1;
            let exact = Match {
                service: None,
                method: Some(MethodMatch::Exact(method.clone())),
                host: matches.host.clone(),
                headers: matches.headers.clone(),
            };
            plain.push(plain_route(format!("{name} for {method}"), exact, policy_of_method));
        }
        plain.push(plain_route(name, matches.clone(), policy.clone()));
    };
    for (i, route) in service.routes.iter().enumerate() {
        add(format!("routes[{i}]"), &route.matches, &route.backends, &route.policy);
    }
    if service.unmatched == Unmatched::Forward {
        let own = Backend { service: index, labels: Default::default(), weight: 1 };
        add("unmatched".to_owned(), &Match::default(), &[own], &service.policy);
    }
    (plain, left_out)
}

/// What holds for a method: its own blocks, and those of the route where it has none.
fn overlay(policy: &Policy, method: &Method) -> Policy {
    let mut policy = policy.clone();
    policy.deadline = method.deadline.unwrap_or(policy.deadline);
    policy.stream = method.stream.unwrap_or(policy.stream);
    policy.repeats = method.repeats.unwrap_or(policy.repeats);
    policy.injection = method.injection.unwrap_or(policy.injection);
    if let Some(headers) = &method.headers {
        policy.headers = headers.clone();
    }
    if !method.idempotent {
        policy.repeats = Repeats::Unprocessed;
    }
    policy
}

/// Whether a route can take calls of a method, whatever their host and headers.
fn takes(matches: &Match, method: &str) -> bool {
    let service = method.split('/').next();
    matches.service.as_deref().is_none_or(|wanted| Some(wanted) == service)
        && match &matches.method {
            None => true,
            Some(MethodMatch::Exact(exact)) => exact == method,
            Some(MethodMatch::Prefix(prefix)) => method.starts_with(prefix.as_str()),
            Some(MethodMatch::Regex(regex)) => regex.is_match(method),
        }
}
