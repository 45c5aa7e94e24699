//! The rules as nftables takes them (`nft -f -`): one table, replaced as a whole.

use std::fmt::{Display, Write as _};

use crate::init::cidr::Family;
use crate::init::plan::{Doors, Plan};
use crate::init::ports::Ports;

/// Makes the table, so that its deletion never fails, and deletes it. nft carries out a file as one
/// transaction: there is no moment without rules.
const CLEAR: &str = "table inet outrigger\ndelete table inet outrigger\n";

/// What takes the rules away.
pub(crate) fn removal() -> String {
    CLEAR.to_owned()
}

/// What puts these rules in place of whatever an earlier run wrote.
pub(crate) fn ruleset(plan: &Plan) -> String {
    let families = [Family::V4, Family::V6].map(|family| (family, plan.doors(family)));
    let mut text = Text(format!("{CLEAR}table inet outrigger {{\n"));
    if families.iter().any(|(_, doors)| doors.inbound.is_some()) {
        // What stays inside the pod passes here too, but the chain `output` has decided for it by then.
        text.chain(
            "prerouting",
            &[
                "type nat hook prerouting priority -100; policy accept;",
                "meta l4proto tcp fib daddr type local goto inbound",
            ],
        );
        text.chain("inbound", &inbound(plan, &families));
        text.chain("sidecar", &sidecar(&families));
    }
    text.chain("output", &output(plan, &families));
    text.0.push_str("}\n");
    text.0
}

/// Connections to this pod, from elsewhere or from its own sidecar.
fn inbound(plan: &Plan, families: &[(Family, &Doors)]) -> Vec<String> {
    let mut rules = vec![format!("tcp dport {{ {} }} return", plan.direct_in)];
    if let Some(only) = &plan.only_in {
        rules.push(match only.is_empty() {
            true => "return".to_owned(),
            false => format!("tcp dport != {{ {only} }} return"),
        });
    }
    for (family, doors) in families {
        let Some(rest) = doors.inbound else { continue };
        for (app, listener) in &doors.entries {
            rules.push(format!("meta nfproto {} tcp dport {app} redirect to :{listener}", name(*family)));
        }
        rules.push(redirect(*family, rest));
    }
    rules
}

/// The sidecar's own connections: those to an app's port at an address of this pod lead back to its own service,
/// those to loopback and to the app itself are the last hop of a call, and the rest leaves the pod.
fn sidecar(families: &[(Family, &Doors)]) -> Vec<String> {
    let mut rules = vec!["oifname != \"lo\" return".to_owned()];
    rules.push("ip daddr 127.0.0.0/8 return".to_owned());
    rules.push("ip6 daddr ::1 return".to_owned());
    for (family, doors) in families {
        for app in &doors.apps {
            rules.push(format!("{} daddr {} tcp dport {} return", protocol(*family), app.ip(), app.port()));
        }
    }
    let ports = families.iter().fold(Ports::default(), |all, (_, doors)| all.union(&doors.ports));
    rules.push(format!("tcp dport {{ {ports} }} goto inbound"));
    rules
}

/// Connections that begin in this pod.
fn output(plan: &Plan, families: &[(Family, &Doors)]) -> Vec<String> {
    let mut rules = vec!["type nat hook output priority -100; policy accept;".to_owned()];
    rules.push("meta l4proto != tcp return".to_owned());
    let back = families.iter().any(|(_, doors)| doors.inbound.is_some());
    rules.push(format!(
        "meta skuid {{ {} }} {}",
        list(&plan.uids),
        if back { "goto sidecar" } else { "return" }
    ));
    rules.push("oifname \"lo\" return".to_owned());
    push_ports(&mut rules, &plan.direct_out);
    for (family, doors) in families {
        let Some(port) = doors.outbound else { continue };
        if !doors.ranges.is_empty() {
            rules.push(format!("{} daddr {{ {} }} return", protocol(*family), list(&doors.ranges)));
        }
        rules.push(redirect(*family, port));
    }
    rules
}

fn push_ports(rules: &mut Vec<String>, ports: &Ports) {
    if !ports.is_empty() {
        rules.push(format!("tcp dport {{ {ports} }} return"));
    }
}

fn redirect(family: Family, port: u16) -> String {
    format!("meta nfproto {} meta l4proto tcp redirect to :{port}", name(family))
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn protocol(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

struct Text(String);

impl Text {
    fn chain<R: AsRef<str>>(&mut self, name: &str, rules: &[R]) {
        let _ = writeln!(self.0, "\tchain {name} {{");
        for rule in rules {
            let _ = writeln!(self.0, "\t\t{}", rule.as_ref());
        }
        let _ = writeln!(self.0, "\t}}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::sample::{BOTH, plan};

    #[test]
    fn the_table_is_replaced_as_a_whole() {
        let args = "--exclude-inbound-ports 9000-9100 --exclude-outbound-ports 25,3306 \
            --exclude-outbound-ranges 10.1.0.0/16,10.0.0.0/8,fd00::/8 --uid 1337,0";
        let want = "table inet outrigger
delete table inet outrigger
table inet outrigger {
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		meta l4proto tcp fib daddr type local goto inbound
	}
	chain inbound {
		tcp dport { 9000-9100, 15000-15001, 15006-15007, 15020 } return
		meta nfproto ipv4 tcp dport 50052 redirect to :15007
		meta nfproto ipv4 meta l4proto tcp redirect to :15006
	}
	chain sidecar {
		oifname != \"lo\" return
		ip daddr 127.0.0.0/8 return
		ip6 daddr ::1 return
		tcp dport { 50051-50052 } goto inbound
	}
	chain output {
		type nat hook output priority -100; policy accept;
		meta l4proto != tcp return
		meta skuid { 1337, 0 } goto sidecar
		oifname \"lo\" return
		tcp dport { 25, 3306 } return
		ip daddr { 10.0.0.0/8 } return
		meta nfproto ipv4 meta l4proto tcp redirect to :15001
	}
}
";
        assert_eq!(ruleset(&plan(BOTH, args).expect("a plan")), want);
    }

    #[test]
    fn a_pure_client_has_no_rules_for_what_comes_in() {
        let client = "service: shopper\noutbound: {}\nmesh: {file: mesh.yaml}\n";
        let text = ruleset(&plan(client, "").expect("a plan"));
        assert!(!text.contains("inbound") && !text.contains("prerouting"), "{text}");
        assert!(text.contains("meta skuid { 1337 } return"), "{text}");
    }

    #[test]
    fn a_pure_server_redirects_nothing_that_goes_out() {
        let server = "service: orders\ninbound: [{listen: 0.0.0.0:15006, app: 127.0.0.1:50051, mtls: off}]\n\
            mesh: {file: mesh.yaml}\n";
        let text = ruleset(&plan(server, "--exclude-outbound-ranges 10.0.0.0/8").expect("a plan"));
        assert_eq!(text.matches("redirect").count(), 1, "{text}");
        assert!(!text.contains("10.0.0.0/8"), "{text}");
    }

    #[test]
    fn only_the_ports_that_are_included_come_in_through_the_sidecar() {
        let text = ruleset(&plan(BOTH, "--include-inbound-ports 50051-50052").expect("a plan"));
        assert!(text.contains("tcp dport != { 50051-50052 } return"), "{text}");
    }
}
