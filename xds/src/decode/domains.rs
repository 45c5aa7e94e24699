//! The domains of virtual hosts.

use crate::decode::patterns;

/// Refuses a domain that no `:authority` could fit to.
pub(crate) fn check(domain: &str) -> Result<(), String> {
    match domain.is_empty()
        || domain.trim_matches('*').contains('*')
        || domain.len() > 1 && domain.ends_with('*') && domain.starts_with('*')
    {
        true => Err("a domain is `host`, `host:PORT`, `host:*`, `*.domain` or `*`".to_owned()),
        false => Ok(()),
    }
}

/// How well a domain fits to a name; the smaller the better.
fn fit(domain: &str, name: &str) -> Option<(u8, usize)> {
    let shorter = usize::MAX - domain.len();
    if domain == name {
        return Some((0, 0));
    }
    if domain == "*" {
        return Some((3, 0));
    }
    // A star stands for at least one character.
    if let Some(behind) = domain.strip_prefix('*') {
        return (name.len() > behind.len() && name.ends_with(behind)).then_some((1, shorter));
    }
    let front = domain.strip_suffix('*')?;
    (name.len() > front.len() && name.starts_with(front)).then_some((2, shorter))
}

/// The index of the list with the domain that fits best (gRFC A27; Envoy does the same).
pub(crate) fn best<'a>(lists: impl Iterator<Item = &'a [String]>, name: &str) -> Option<usize> {
    let name = name.to_ascii_lowercase();
    let fits = lists.enumerate().filter_map(|(index, domains)| {
        let fit = domains.iter().filter_map(|domain| fit(domain, &name)).min()?;
        Some((fit, index))
    });
    fits.min().map(|(_, index)| index)
}

/// The hosts that domains name, and the ports, if all of them are limited to ports; the name of the listener where they name
/// no host.
pub(crate) fn hosts_and_ports(domains: &[String], name: &str) -> (Vec<String>, Vec<u16>) {
    let (mut hosts, mut ports, mut any_port) = (Vec::<String>::new(), Vec::new(), false);
    for domain in domains {
        let (host, port) =
            domain.split_once(':').map_or((domain.as_str(), None), |(host, port)| (host, Some(port)));
        if !patterns::is_host(host) {
            continue;
        }
        match port {
            // `:authority` without a port is of the default one.
            None => {}
            Some(port) => match port.parse::<u16>() {
                Ok(port) if !ports.contains(&port) => ports.push(port),
                Ok(_) => {}
                Err(_) => any_port = true,
            },
        }
        if !hosts.iter().any(|known| known == host) {
            hosts.push(host.to_owned());
        }
    }
    if any_port {
        ports.clear();
    }
    if hosts.is_empty() {
        let name = name.to_ascii_lowercase();
        hosts.push(name.split(':').next().unwrap_or_default().to_owned());
    }
    (hosts, ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_domain_that_fits_best_is_the_one_that_envoy_and_grpc_take() {
        let order = ["a.b.c", "*.b.c", "*.c", "a.b.*", "a.*", "*"];
        for (i, better) in order.iter().enumerate() {
            for worse in &order[i + 1..] {
                assert!(fit(better, "a.b.c") < fit(worse, "a.b.c"), "{better} {worse}");
            }
        }
        for domain in ["b.c", "*a.b.c", "a.b.c*", "*.d"] {
            assert_eq!(fit(domain, "a.b.c"), None, "{domain}");
        }
        assert_eq!(fit("a:*", "a:80").map(|fit| fit.0), Some(2));
    }

    #[test]
    fn domains_name_hosts_and_ports() {
        let of = |domains: &[&str]| {
            let domains: Vec<String> = domains.iter().map(|domain| (*domain).to_owned()).collect();
            let (hosts, ports) = hosts_and_ports(&domains, "Name.ns:50051");
            (hosts.join(" "), ports)
        };
        assert_eq!(of(&["a", "a:*", "b", "b:*"]), ("a b".to_owned(), vec![]));
        assert_eq!(of(&["a", "a:80", "a:81"]), ("a".to_owned(), vec![80, 81]));
        assert_eq!(of(&["a:80", "b:80"]), ("a b".to_owned(), vec![80]));
        assert_eq!(of(&["*"]), ("name.ns".to_owned(), vec![]));
        assert_eq!(of(&["*.b", "a.b"]), ("a.b".to_owned(), vec![]));
    }

    #[test]
    fn a_star_stands_at_one_end() {
        for domain in ["", "**", "a*b", "*a*"] {
            assert!(check(domain).is_err(), "{domain}");
        }
        for domain in ["*", "a", "a:*", "*.a", "a.*"] {
            assert!(check(domain).is_ok(), "{domain}");
        }
    }
}
