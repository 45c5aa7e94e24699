//! `http://host:port` and `https://host:port`, as they name a server that is dialled.

use std::net::Ipv6Addr;

/// Whether TLS is spoken, the host without the brackets of IPv6, and the port.
pub(crate) type Parts = (bool, String, u16);

/// Reads a URL that has neither a path nor a query. `bare_tls` says what a text without a scheme means (`None`: it is no
/// URL), `port` is for who names none.
pub(crate) fn parse(url: &str, bare_tls: Option<bool>, port: u16) -> Option<Parts> {
    let (tls, rest) = match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some(_) => return None,
        None => (bare_tls?, url),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, after) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, after)
        }
        None => {
            let (host, after) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            let of_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            if host.is_empty() || !host.bytes().all(of_name) {
                return None;
            }
            (host, after)
        }
    };
    let port = match after.strip_prefix(':') {
        // `parse` takes a sign.
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok()?,
        None if after.is_empty() => port,
        _ => return None,
    };
    (port != 0).then(|| (tls, host.to_owned(), port))
}

/// The URL of these parts.
pub(crate) fn write(f: &mut std::fmt::Formatter<'_>, tls: bool, host: &str, port: u16) -> std::fmt::Result {
    let scheme = if tls { "https" } else { "http" };
    match host.contains(':') {
        true => write!(f, "{scheme}://[{host}]:{port}"),
        false => write!(f, "{scheme}://{host}:{port}"),
    }
}
