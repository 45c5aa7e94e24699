//! Hosts that lead elsewhere than before.

use std::collections::HashMap;

use config::model::{Mesh, Service};

/// Lines that are told of one change.
const LINES_MAX: usize = 20;

/// What callers of services that were in force and still are may notice: a short name that is nobody's any more, since another
/// namespace has a service of that name now, and a host that another service took. A line for each.
pub(crate) fn taken(before: &Mesh, after: &Mesh) -> Vec<String> {
    let now: HashMap<&str, &Service> = after
        .services
        .iter()
        .flat_map(|service| service.hosts.iter().map(move |host| (host.as_str(), service)))
        .collect();
    let known: HashMap<(&str, &str), &Service> =
        after.services.iter().map(|service| ((&*service.name, &*service.namespace), service)).collect();
    let mut lines = Vec::new();
    for service in &before.services {
        let Some(still) = known.get(&(&*service.name, &*service.namespace)) else { continue };
        for host in service.hosts.iter().filter(|host| !still.hosts.contains(host)) {
            let full = service.full_name();
            let where_to = match now.get(host.as_str()) {
                Some(other) => format!("leads to {} now, and not to {full}", other.full_name()),
                None if *host == service.name => {
                    format!("does not lead to {full} any more: another namespace has that name too")
                }
                // The file of the service has said so.
                None => continue,
            };
            lines.push(format!("the host `{host}` {where_to}; callers of {full} write `{full}`"));
        }
    }
    lines.truncate(LINES_MAX);
    lines
}

#[cfg(test)]
mod tests {
    use config::{Source, parse_mesh};

    use crate::hosts::*;

    fn mesh(services: &str) -> Mesh {
        let text = format!("version: 1\nservices: [{services}]\n");
        parse_mesh(Source { name: "m", text: &text }).unwrap_or_else(|faults| panic!("{faults}"))
    }

    #[test]
    fn a_host_that_a_new_service_takes_from_one_in_force_is_told() {
        let pay = "{name: pay, namespace: shop, hosts: [pay.example]}";
        let told = |after: &str| taken(&mesh(pay), &mesh(after)).join("\n");
        assert_eq!(told(&format!("{pay}, {{name: users, namespace: shop}}")), "");
        assert_eq!(
            told(&format!("{pay}, {{name: pay, namespace: bank}}")),
            "the host `pay` does not lead to pay.shop any more: another namespace has that name too; \
             callers of pay.shop write `pay.shop`"
        );
        let both = "{name: pay, namespace: shop}, {name: bank, namespace: shop, hosts: [pay.example]}";
        assert!(told(both).starts_with("the host `pay.example` leads to bank.shop now, and not to pay.shop"));
        assert_eq!(told("{name: pay, namespace: shop}"), "", "it was given away by its own file");
        assert_eq!(told("{name: pay, namespace: bank}"), "", "the service is gone, which is told elsewhere");
    }
}
