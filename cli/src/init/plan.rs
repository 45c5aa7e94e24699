//! What is redirected where, and what is not.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use config::model::{Inbound, Sidecar, Unknown};

use crate::init::cidr::{Cidr, Family, apart};
use crate::init::options::Options;
use crate::init::ports::Ports;

/// DNS (RFC 7766). Most of it is UDP, which is never redirected.
const DNS: u16 = 53;

/// The rules, told without a tool in mind.
///
/// Connections that come from elsewhere to an address of this pod go to an inbound listener; those that leave
/// the pod go to the outbound listener. What stays inside the pod is direct, but for the sidecar's own
/// connections to an app's port at an address of the pod: it calls its own service there, and the callee's side
/// of it must see the call.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Whose connections are the sidecar's own.
    pub(crate) uids: Vec<u32>,
    /// Ports of the pod that are reached directly: the sidecar's own listeners, and what was asked for.
    pub(crate) direct_in: Ports,
    /// The only ports of the pod that are redirected; `None`: all that are not direct.
    pub(crate) only_in: Option<Ports>,
    /// Ports of others that are reached directly.
    pub(crate) direct_out: Ports,
    v4: Doors,
    v6: Doors,
    /// What the operator should know.
    pub(crate) notes: Vec<String>,
}

/// Where one protocol's connections are led to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Doors {
    /// `(app's port, listener's port)` of the entries whose listener is not `inbound`.
    pub(crate) entries: Vec<(u16, u16)>,
    /// The listener of everything else that comes in.
    pub(crate) inbound: Option<u16>,
    /// The ports of the apps that have an entry.
    pub(crate) ports: Ports,
    /// The listener of what goes out.
    pub(crate) outbound: Option<u16>,
    /// Apps that do not listen on loopback: the sidecar must reach them, and not itself.
    pub(crate) apps: Vec<SocketAddr>,
    /// Others that are reached directly.
    pub(crate) ranges: Vec<Cidr>,
}

impl Plan {
    /// Takes the ports from the file of the sidecar.
    ///
    /// # Errors
    /// Every reason why redirected connections would not reach it.
    pub(crate) fn new(sidecar: &Sidecar, options: &Options) -> Result<Self, Vec<String>> {
        let faults = faults(sidecar);
        if !faults.is_empty() {
            return Err(faults);
        }
        let doors = |family| Doors {
            ranges: apart(&options.exclude_outbound_ranges, family),
            outbound: outbound(sidecar, family),
            ..inbound(&sidecar.inbound, family)
        };
        let (v4, v6) = (doors(Family::V4), doors(Family::V6));
        let own: Ports = listeners(sidecar).into_iter().map(|(_, at)| at.port()).collect();
        Ok(Self {
            uids: options.uid.clone(),
            direct_in: own.union(&options.exclude_inbound_ports),
            only_in: options.include_inbound_ports.clone(),
            direct_out: options.exclude_outbound_ports.clone(),
            notes: notes(sidecar, options, &v4, &v6),
            v4,
            v6,
        })
    }

    /// The doors of one protocol.
    pub(crate) fn doors(&self, family: Family) -> &Doors {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

/// Every listener, by its key.
fn listeners(sidecar: &Sidecar) -> Vec<(String, SocketAddr)> {
    let inbound = sidecar.inbound.iter().enumerate();
    let mut all: Vec<_> =
        inbound.map(|(at, entry)| (format!("inbound[{at}].listen"), entry.listen)).collect();
    if let Some(outbound) = &sidecar.outbound {
        all.push(("outbound.listen".to_owned(), outbound.listen));
        all.extend(outbound.listen_ipv6.map(|at| ("outbound.listen_ipv6".to_owned(), at)));
    }
    all.push(("admin.listen".to_owned(), sidecar.admin.listen));
    all.push(("probes.listen".to_owned(), sidecar.probes));
    all
}

fn faults(sidecar: &Sidecar) -> Vec<String> {
    let mut faults = Vec::new();
    for (key, at) in listeners(sidecar) {
        if at.port() == 0 {
            faults.push(format!(
                "{key}: port 0 is another one at each start; write the port that rules can name"
            ));
        }
        if key.starts_with("inbound") && !at.ip().is_unspecified() {
            faults.push(format!(
                "{key}: redirected connections come to any address of the pod, not to `{}` alone; write \
                 `0.0.0.0:{port}`, or `[::]:{port}` for both protocols",
                at.ip(),
                port = at.port()
            ));
        }
        let loopback =
            if at.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { Ipv6Addr::LOCALHOST.into() };
        if key.starts_with("outbound") && at.ip() != loopback {
            let right = SocketAddr::new(loopback, at.port());
            faults.push(format!(
                "{key}: redirected connections come to {loopback}, not to {}; write `{right}`",
                at.ip()
            ));
        }
    }
    faults
}

/// Who serves a family: `[::]` takes both.
fn serves(listen: SocketAddr, family: Family) -> bool {
    listen.is_ipv6() || family == Family::V4
}

fn inbound(entries: &[Inbound], family: Family) -> Doors {
    let mut doors = Doors::default();
    for entry in entries.iter().filter(|entry| serves(entry.listen, family)) {
        let listener = entry.listen.port();
        let rest = *doors.inbound.get_or_insert(listener);
        // The first entry of an app has it.
        let taken = doors.ports.contains(entry.app.port());
        doors.ports = doors.ports.union(&[entry.app.port()].into_iter().collect());
        if listener != rest && !taken {
            doors.entries.push((entry.app.port(), listener));
        }
        let of_family = entry.app.is_ipv4() == (family == Family::V4);
        let inside = entry.app.ip().is_loopback() || entry.app.ip().is_unspecified();
        if of_family && !inside && !doors.apps.contains(&entry.app) {
            doors.apps.push(entry.app);
        }
    }
    doors
}

fn outbound(sidecar: &Sidecar, family: Family) -> Option<u16> {
    let outbound = sidecar.outbound.as_ref()?;
    let listeners = [Some(outbound.listen), outbound.listen_ipv6].into_iter().flatten();
    listeners
        .map(|at| (at.is_ipv4() == (family == Family::V4), at.port()))
        .find_map(|(fits, port)| fits.then_some(port))
}

fn notes(sidecar: &Sidecar, options: &Options, v4: &Doors, v6: &Doors) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |missing: bool, text: &str| {
        if missing {
            notes.push(text.to_owned());
        }
    };
    let (inbound, outbound) = (!sidecar.inbound.is_empty(), sidecar.outbound.is_some());
    note(
        inbound && v6.inbound.is_none(),
        "IPv6 that comes in is left alone: no `inbound.listen` is on `[::]`",
    );
    note(
        outbound && v6.outbound.is_none(),
        "IPv6 that goes out is left alone: there is no `outbound.listen_ipv6`",
    );
    note(outbound && v4.outbound.is_none(), "IPv4 that goes out is left alone: `outbound.listen` is IPv6");
    let refuses = sidecar.outbound.is_some_and(|outbound| outbound.unknown == Unknown::Refuse);
    note(
        refuses
            && !options.exclude_outbound_ports.contains(DNS)
            && options.exclude_outbound_ranges.is_empty(),
        "DNS over TCP goes through the sidecar too, and `unknown: refuse` refuses it; write \
         `--exclude-outbound-ports 53` where apps need it",
    );
    for app in v4.apps.iter().chain(&v6.apps) {
        notes.push(format!(
            "the app's own calls to {app} reach it unseen; where it calls itself through the mesh, name the \
             port of `inbound.listen` in its endpoints, or let it listen on loopback too"
        ));
    }
    notes
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = |of: fn(&Doors) -> Option<u16>| {
            let told = |(name, doors): (&str, &Doors)| of(doors).map(|port| format!("{port} ({name})"));
            let told: Vec<String> =
                [("IPv4", &self.v4), ("IPv6", &self.v6)].into_iter().filter_map(told).collect();
            if told.is_empty() { "nowhere".to_owned() } else { told.join(" and ") }
        };
        let uids: Vec<String> = self.uids.iter().map(u32::to_string).collect();
        write!(
            f,
            "what comes in goes to {}, what goes out to {}, but for user {}",
            ports(|doors| doors.inbound),
            ports(|doors| doors.outbound),
            uids.join(", ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::sample::{BOTH, plan};

    #[test]
    fn the_sidecars_own_listeners_are_always_direct() {
        let plan = plan(BOTH, "--exclude-inbound-ports 9090").expect("a plan");
        assert_eq!(plan.direct_in.to_string(), "9090, 15000-15001, 15006-15007, 15020");
        assert_eq!(plan.uids, [1337]);
    }

    #[test]
    fn an_app_whose_entry_has_another_listener_is_led_there_and_the_rest_to_the_first() {
        let plan = plan(BOTH, "").expect("a plan");
        let doors = plan.doors(Family::V4);
        assert_eq!((doors.inbound, doors.outbound), (Some(15_006), Some(15_001)));
        assert_eq!(doors.entries, [(50_052, 15_007)]);
    }

    #[test]
    fn the_first_of_two_entries_for_an_app_has_it() {
        let both = BOTH.replace("127.0.0.1:50052", "127.0.0.1:50051");
        assert_eq!(plan(&both, "").expect("a plan").doors(Family::V4).entries, []);
    }

    #[test]
    fn ipv6_is_left_alone_with_a_note_unless_a_listener_takes_it() {
        let plan_v4 = plan(BOTH, "").expect("a plan");
        let doors = plan_v4.doors(Family::V6);
        assert_eq!((doors.inbound, doors.outbound), (None, None));
        assert_eq!(plan_v4.notes.len(), 2, "{:?}", plan_v4.notes);

        let both = BOTH.replace("0.0.0.0:15006", "\"[::]:15006\"");
        let plan = plan(&both, "").expect("a plan");
        assert_eq!(plan.doors(Family::V6).inbound, Some(15_006));
        assert_eq!(plan.doors(Family::V6).entries, [], "15007 takes no IPv6");
        assert_eq!(plan.doors(Family::V4).entries, [(50_052, 15_007)]);
        assert_eq!(plan.notes.len(), 1, "{:?}", plan.notes);
    }

    #[test]
    fn who_refuses_what_is_unknown_is_told_of_dns_over_tcp() {
        let refuse =
            BOTH.replace("outbound: {}", "outbound: {unknown: refuse, listen_ipv6: \"[::1]:15001\"}");
        let told = |args| plan(&refuse, args).expect("a plan").notes.iter().any(|note| note.contains("DNS"));
        assert!(told(""));
        assert!(!told("--exclude-outbound-ports 53"));
        let doors = plan(&refuse, "").expect("a plan").doors(Family::V6).clone();
        assert_eq!((doors.inbound, doors.outbound), (None, Some(15_001)));
    }

    #[test]
    fn an_app_on_an_address_of_the_pod_is_reached_and_the_operator_is_told() {
        let pod = BOTH.replace("127.0.0.1:50052", "10.0.0.7:50052");
        let plan = plan(&pod, "").expect("a plan");
        assert_eq!(plan.doors(Family::V4).apps, ["10.0.0.7:50052".parse().expect("an address")]);
        assert!(plan.notes.iter().any(|note| note.contains("10.0.0.7:50052")), "{:?}", plan.notes);
    }

    #[test]
    fn every_listener_that_redirected_connections_cannot_reach_is_told_at_once() {
        let wrong = BOTH
            .replace("0.0.0.0:15006", "127.0.0.1:15006")
            .replace("0.0.0.0:15007", "0.0.0.0:0")
            .replace("outbound: {}", "outbound: {listen: 127.0.0.5:15001}\nprobes: {listen: 0.0.0.0:0}");
        let faults = plan(&wrong, "").expect_err("four faults");
        let wanted = [
            "inbound[0].listen: redirected connections come to any address of the pod, not to `127.0.0.1` alone",
            "inbound[1].listen: port 0 ",
            "outbound.listen: redirected connections come to 127.0.0.1, not to 127.0.0.5; write `127.0.0.1:15001`",
            "probes.listen: port 0 ",
        ];
        assert_eq!(faults.len(), wanted.len(), "{faults:?}");
        for (fault, want) in faults.iter().zip(wanted) {
            assert!(fault.starts_with(want), "{fault}");
        }
    }
}
