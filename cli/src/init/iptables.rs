//! The rules as `iptables-restore --noflush` and `ip6tables-restore --noflush` take them: one transaction for
//! each protocol, on chains of our own and two jumps to them.

use std::fmt::Write as _;

use crate::init::cidr::Family;
use crate::init::plan::{Doors, Plan};
use crate::init::ports::Ports;

/// Connections that come from elsewhere.
const PREROUTING: &str = "OUTRIGGER_PREROUTING";
/// Connections to this pod, from elsewhere or from its own sidecar.
const INBOUND: &str = "OUTRIGGER_INBOUND";
/// The sidecar's own connections.
const SIDECAR: &str = "OUTRIGGER_SIDECAR";
/// Connections that begin in this pod.
const OUTBOUND: &str = "OUTRIGGER_OUTBOUND";

/// Each chain after those that lead to it.
const CHAINS: [&str; 4] = [PREROUTING, OUTBOUND, SIDECAR, INBOUND];

/// What takes the rules away, given what `iptables-save -t nat` says; `None` when there are none.
pub(crate) fn removal(saved: &str) -> Option<String> {
    let there = |chain: &&str| saved.lines().any(|line| line.starts_with(&format!(":{chain} ")));
    let chains: Vec<&str> = CHAINS.into_iter().filter(there).collect();
    if chains.is_empty() {
        return None;
    }
    let mut text = format!("*nat\n{}", jumps_off(saved));
    for command in ["-F", "-X"] {
        for chain in &chains {
            let _ = writeln!(text, "{command} {chain}");
        }
    }
    text.push_str("COMMIT\n");
    Some(text)
}

/// What puts these rules in place of whatever an earlier run wrote, given what `iptables-save -t nat` says.
pub(crate) fn ruleset(plan: &Plan, family: Family, saved: &str) -> String {
    let doors = plan.doors(family);
    let mut text = "*nat\n".to_owned();
    // Such a line makes a chain, or empties the one that is there.
    for chain in CHAINS {
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    text.push_str(&jumps_off(saved));
    let mut rule = |chain: &str, rule: &str| _ = writeln!(text, "-A {chain} {rule}");
    if doors.inbound.is_some() {
        rule("PREROUTING", &format!("-p tcp -j {PREROUTING}"));
        // What stays inside the pod passes here too, but OUTPUT has decided for it by then.
        rule(PREROUTING, &format!("-p tcp -m addrtype --dst-type LOCAL -g {INBOUND}"));
    }
    rule("OUTPUT", &format!("-p tcp -j {OUTBOUND}"));
    inbound(plan, doors).iter().for_each(|text| rule(INBOUND, text));
    sidecar(doors, family).iter().for_each(|text| rule(SIDECAR, text));
    outbound(plan, doors).iter().for_each(|text| rule(OUTBOUND, text));
    text.push_str("COMMIT\n");
    text
}

fn inbound(plan: &Plan, doors: &Doors) -> Vec<String> {
    let mut rules = returns(&plan.direct_in);
    let Some(rest) = doors.inbound else { return Vec::new() };
    let on = |ports: &str, listener: u16| format!("-p tcp{ports} -j REDIRECT --to-ports {listener}");
    let Some(only) = &plan.only_in else {
        let entries = doors.entries.iter();
        rules.extend(entries.map(|(app, listener)| on(&format!(" --dport {app}"), *listener)));
        rules.push(on("", rest));
        return rules;
    };
    // There is no "none of these ports" that holds any number of them, so each is named.
    let entries = doors.entries.iter().filter(|(app, _)| only.contains(*app));
    rules.extend(entries.map(|(app, listener)| on(&format!(" --dport {app}"), *listener)));
    rules.extend(ports(only).map(|ports| on(&ports, rest)));
    rules
}

fn sidecar(doors: &Doors, family: Family) -> Vec<String> {
    if doors.inbound.is_none() {
        return Vec::new();
    }
    let loopback = if family == Family::V4 { "127.0.0.0/8" } else { "::1/128" };
    let mut rules = vec!["! -o lo -j RETURN".to_owned(), format!("-d {loopback} -j RETURN")];
    let apps = doors.apps.iter();
    rules.extend(apps.map(|app| format!("-d {} -p tcp --dport {} -j RETURN", app.ip(), app.port())));
    rules.extend(ports(&doors.ports).map(|ports| format!("-p tcp{ports} -g {INBOUND}")));
    rules
}

fn outbound(plan: &Plan, doors: &Doors) -> Vec<String> {
    let owner = |uid: &u32| format!("-m owner --uid-owner {uid} -g {SIDECAR}");
    let mut rules: Vec<String> = plan.uids.iter().map(owner).collect();
    rules.push("-o lo -j RETURN".to_owned());
    rules.extend(returns(&plan.direct_out));
    let Some(port) = doors.outbound else { return rules };
    rules.extend(doors.ranges.iter().map(|range| format!("-d {range} -j RETURN")));
    rules.push(format!("-p tcp -j REDIRECT --to-ports {port}"));
    rules
}

fn returns(ports: &Ports) -> Vec<String> {
    self::ports(ports).map(|ports| format!("-p tcp{ports} -j RETURN")).collect()
}

/// A match for each range; one for many (`multiport`) takes fifteen at most.
fn ports(ports: &Ports) -> impl Iterator<Item = String> + '_ {
    ports.ranges().map(|(from, to)| match from == to {
        true => format!(" --dport {from}"),
        false => format!(" --dport {from}:{to}"),
    })
}

/// Deletes the jumps to our chains.
fn jumps_off(saved: &str) -> String {
    let ours = |line: &&str| CHAINS.iter().any(|chain| line.ends_with(&format!("-j {chain}")));
    let built_in =
        saved.lines().filter(|line| line.starts_with("-A PREROUTING") || line.starts_with("-A OUTPUT"));
    built_in.filter(ours).map(|line| line.replacen("-A", "-D", 1) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::sample::{BOTH, plan};

    const SAVED: &str = "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
        :OUTRIGGER_INBOUND - [0:0]\n:OUTRIGGER_OUTBOUND - [0:0]\n:OUTRIGGER_PREROUTING - [0:0]\n\
        :OUTRIGGER_SIDECAR - [0:0]\n-A PREROUTING -p tcp -j OUTRIGGER_PREROUTING\n\
        -A PREROUTING -p tcp -j OTHERS\n-A OUTPUT -p tcp -j OUTRIGGER_OUTBOUND\n\
        -A OUTRIGGER_INBOUND -p tcp -j REDIRECT --to-ports 1\nCOMMIT\n";

    #[test]
    fn each_protocol_has_its_chains_and_two_jumps() {
        let args = "--exclude-outbound-ports 25,8000-8100 --exclude-outbound-ranges 10.0.0.0/8";
        let want = "*nat
:OUTRIGGER_PREROUTING - [0:0]
:OUTRIGGER_OUTBOUND - [0:0]
:OUTRIGGER_SIDECAR - [0:0]
:OUTRIGGER_INBOUND - [0:0]
-A PREROUTING -p tcp -j OUTRIGGER_PREROUTING
-A OUTRIGGER_PREROUTING -p tcp -m addrtype --dst-type LOCAL -g OUTRIGGER_INBOUND
-A OUTPUT -p tcp -j OUTRIGGER_OUTBOUND
-A OUTRIGGER_INBOUND -p tcp --dport 15000:15001 -j RETURN
-A OUTRIGGER_INBOUND -p tcp --dport 15006:15007 -j RETURN
-A OUTRIGGER_INBOUND -p tcp --dport 15020 -j RETURN
-A OUTRIGGER_INBOUND -p tcp --dport 50052 -j REDIRECT --to-ports 15007
-A OUTRIGGER_INBOUND -p tcp -j REDIRECT --to-ports 15006
-A OUTRIGGER_SIDECAR ! -o lo -j RETURN
-A OUTRIGGER_SIDECAR -d 127.0.0.0/8 -j RETURN
-A OUTRIGGER_SIDECAR -p tcp --dport 50051:50052 -g OUTRIGGER_INBOUND
-A OUTRIGGER_OUTBOUND -m owner --uid-owner 1337 -g OUTRIGGER_SIDECAR
-A OUTRIGGER_OUTBOUND -o lo -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp --dport 25 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp --dport 8000:8100 -j RETURN
-A OUTRIGGER_OUTBOUND -d 10.0.0.0/8 -j RETURN
-A OUTRIGGER_OUTBOUND -p tcp -j REDIRECT --to-ports 15001
COMMIT
";
        assert_eq!(ruleset(&plan(BOTH, args).expect("a plan"), Family::V4, ""), want);
    }

    #[test]
    fn a_second_run_takes_the_jumps_of_the_first_off_and_no_others() {
        let text = ruleset(&plan(BOTH, "").expect("a plan"), Family::V4, SAVED);
        let deletions: Vec<&str> = text.lines().filter(|line| line.starts_with("-D")).collect();
        let ours = ["-D PREROUTING -p tcp -j OUTRIGGER_PREROUTING", "-D OUTPUT -p tcp -j OUTRIGGER_OUTBOUND"];
        assert_eq!(deletions, ours);
    }

    #[test]
    fn a_removal_empties_every_chain_before_the_first_goes() {
        assert_eq!(removal("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n"), None);
        let text = removal(SAVED).expect("something to remove");
        let commands: Vec<&str> = text.lines().map(|line| &line[..2]).collect();
        assert_eq!(commands, ["*n", "-D", "-D", "-F", "-F", "-F", "-F", "-X", "-X", "-X", "-X", "CO"]);
    }

    #[test]
    fn included_ports_are_led_to_their_entries_and_no_others_are() {
        let text = ruleset(&plan(BOTH, "--include-inbound-ports 50052").expect("a plan"), Family::V4, "");
        let led: Vec<&str> =
            text.lines().filter(|line| line.contains("INBOUND") && line.contains("REDIRECT")).collect();
        let entry = "-A OUTRIGGER_INBOUND -p tcp --dport 50052 -j REDIRECT --to-ports";
        assert_eq!(led, [format!("{entry} 15007"), format!("{entry} 15006")]);
    }
}
