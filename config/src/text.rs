//! Names, paths and header text: every form of text that a key may ask for, and its rule.

use crate::collector::{COLLECTOR_HINT, Collector};
use crate::fault::Wrong;
use crate::mesh_source::{CONTROL_HINT, ControlAddress};
use crate::spell;
use crate::spiffe::{SpiffeId, check_trust_domain};

/// The longest text of any kind, in bytes.
const TEXT_BYTES_MAX: usize = 4_096;

/// The longest path of a Unix socket on Linux (`sun_path`, with its final zero byte).
const SOCKET_BYTES_MAX: usize = 107;

/// Header names that a proxy must have for itself: RFC 9113 section 8.2.2, and what gRPC is framed by.
const PROTECTED: [&str; 11] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Beginnings of header names that belong to gRPC and to the mesh.
const PROTECTED_BEGINNINGS: [&str; 2] = ["grpc-", "outrigger-"];

/// A form of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Text {
    /// A service or namespace: a DNS label (RFC 1123).
    Name,
    /// A service account: a DNS name in lower case.
    Account,
    /// A SPIFFE trust domain.
    TrustDomain,
    /// A host name in lower case.
    Host,
    /// `NAME` or `NAME.NAMESPACE`.
    Target,
    /// A file's path.
    File,
    /// A Unix socket's path.
    Socket,
    /// `unix:PATH`.
    UnixSocket,
    /// `spiffe://...`.
    SpiffeId,
    /// `spiffe://...`, or `*`.
    Caller,
    /// `package.Service`.
    GrpcService,
    /// `package.Service/Method`.
    Method,
    /// The beginning of `package.Service/Method`.
    MethodPrefix,
    /// `package.Service/Method`, or `package.Service/*`.
    CoveredMethods,
    /// A regular expression; compiled where it is used.
    Regex,
    /// A header name in lower case.
    HeaderName,
    /// A header name that may be changed.
    ChangedHeader,
    /// A header name that rules of authorization may go by.
    RuleHeader,
    /// A header value: visible ASCII and spaces inside.
    HeaderValue,
    /// The beginning of a header value; not empty.
    HeaderPrefix,
    /// A key or value of a label.
    Label,
    /// `name:port`, a name to resolve.
    DnsTarget,
    /// `http://host:port`, where spans go.
    Collector,
    /// `https://host:port`, where a control plane serves ADS.
    Control,
}

impl Text {
    /// Checks a text against the rule of its form.
    pub(crate) fn check(self, text: &str) -> Result<(), Wrong> {
        if text.len() > TEXT_BYTES_MAX {
            let wrong = Wrong::new(format!("the text has {} bytes", text.len()));
            return Err(wrong.hint(format!("at most {TEXT_BYTES_MAX} are read")));
        }
        if text.is_empty() && self != Self::HeaderValue {
            return Err(Wrong::new("the text is empty").hint(format!("write {}", self.expected())));
        }
        match self {
            Self::Name => name(text),
            Self::Account => host(text, "a service account"),
            Self::Host => host(text, "a host name"),
            Self::TrustDomain => check_trust_domain(text)
                .map_err(|rule| Wrong::new(format!("`{text}` is not a trust domain")).hint(rule)),
            Self::Target => target(text),
            Self::File => no_control(text),
            Self::Socket => socket(text),
            Self::UnixSocket => unix_socket(text),
            Self::SpiffeId => spiffe_id(text),
            Self::Caller => caller(text),
            Self::GrpcService => grpc_service(text),
            Self::Method => method(text),
            Self::CoveredMethods if text == "*" => {
                Err(Wrong::new("`*` is not a method").hint("leave `methods` out to allow every method"))
            }
            Self::CoveredMethods => match text.strip_suffix("/*") {
                Some(service) => grpc_service(service),
                None => method(text),
            },
            Self::MethodPrefix => no_leading_slash(text).and_then(|()| visible(text)),
            Self::Regex => Ok(()),
            Self::HeaderName => header_name(text),
            Self::ChangedHeader => header_name(text).and_then(|()| changeable(text)),
            Self::RuleHeader => header_name(text).and_then(|()| passed_on(text)),
            Self::HeaderValue | Self::HeaderPrefix => header_value(text),
            Self::Label => visible(text),
            Self::DnsTarget => dns_target(text),
            Self::Collector => collector(text),
            Self::Control => control(text),
        }
    }

    /// What is asked for, as a fault names it.
    pub(crate) fn expected(self) -> &'static str {
        match self {
            Self::Name => "a name such as `payments`",
            Self::Account => "a service account such as `payments`",
            Self::TrustDomain => "a trust domain such as `cluster.local`",
            Self::Host => "a host name such as `payments.internal`",
            Self::Target => "a service such as `payments` or `payments.shop`",
            Self::File => "the path of a file",
            Self::Socket => "the path of a Unix socket",
            Self::UnixSocket => "a socket such as `unix:/run/spire/agent.sock`",
            Self::SpiffeId => "a SPIFFE id such as `spiffe://cluster.local/ns/shop/sa/orders`",
            Self::Caller => {
                "a SPIFFE id, `spiffe://cluster.local/ns/shop/*`, or `\"*\"` for every verified caller"
            }
            Self::RuleHeader => "a header name such as `x-tenant`",
            Self::GrpcService => "a gRPC service such as `shop.PaymentService`",
            Self::Method => "a method such as `shop.PaymentService/Charge`",
            Self::MethodPrefix => "the beginning of a method such as `shop.Payment`",
            Self::CoveredMethods => {
                "a method such as `shop.PaymentService/Charge`, or `shop.PaymentService/*`"
            }
            Self::Regex => "a regular expression",
            Self::HeaderName | Self::ChangedHeader => "a header name such as `x-canary`",
            Self::HeaderValue | Self::HeaderPrefix => "a header value",
            Self::Label => "a text",
            Self::DnsTarget => "a name and a port such as `payments.example:50051`",
            Self::Collector => "a URL such as `http://127.0.0.1:4317`",
            Self::Control => "a URL such as `https://outrigger-control:15012`",
        }
    }

    /// The rule as a regular expression, where one says it well.
    pub(crate) fn pattern(self) -> Option<&'static str> {
        match self {
            Self::Name => Some("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"),
            Self::TrustDomain => Some("^[a-z0-9._-]{1,255}$"),
            Self::Account | Self::Host => {
                Some(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$")
            }
            Self::Target => {
                Some(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")
            }
            Self::SpiffeId => Some("^spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*$"),
            Self::Caller => Some(r"^(\*|spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*(/\*)?)$"),
            Self::GrpcService => Some(r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$"),
            Self::Method => {
                Some(r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*/[A-Za-z_][A-Za-z0-9_]*$")
            }
            Self::CoveredMethods => {
                Some(r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*/([A-Za-z_][A-Za-z0-9_]*|\*)$")
            }
            Self::MethodPrefix => Some("^[!-.0-~][!-~]*$"),
            Self::HeaderName | Self::ChangedHeader | Self::RuleHeader => Some(r"^[a-z0-9!#$%&'*+.^_`|~-]+$"),
            Self::HeaderValue => Some("^([!-~]([ -~]*[!-~])?)?$"),
            Self::HeaderPrefix => Some("^[!-~]([ -~]*[!-~])?$"),
            Self::Label => Some("^[!-~]+$"),
            Self::DnsTarget => {
                Some(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\.?:[0-9]+$")
            }
            Self::Collector | Self::Control => {
                Some(r"^[Hh][Tt][Tt][Pp][Ss]?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?/?$")
            }
            Self::UnixSocket => Some("^unix:.+$"),
            Self::File | Self::Socket | Self::Regex => Some("^.+$"),
        }
    }
}

fn name(text: &str) -> Result<(), Wrong> {
    if is_label(text) {
        return Ok(());
    }
    let wrong = Wrong::new(format!("`{text}` is not a name"));
    let lower = text.to_ascii_lowercase();
    Err(wrong.hint(if is_label(&lower) {
        format!("write it in lower case: `{lower}`")
    } else {
        "at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends".to_owned()
    }))
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn host(text: &str, what: &str) -> Result<(), Wrong> {
    let is_host = |text: &str| text.len() <= 253 && text.split('.').all(is_label);
    if is_host(text) {
        return Ok(());
    }
    let wrong = Wrong::new(format!("`{text}` is not {what}"));
    let lower = text.to_ascii_lowercase();
    Err(wrong.hint(if is_host(&lower) {
        format!("write it in lower case: `{lower}`")
    } else if text.contains(':') {
        "leave the port out; ports stand in `ports`".to_owned()
    } else {
        "dotted parts of at most 63 lower-case letters, digits and `-`".to_owned()
    }))
}

fn target(text: &str) -> Result<(), Wrong> {
    if text.split('.').count() <= 2 {
        return text.split('.').try_for_each(name);
    }
    Err(Wrong::new(format!("`{text}` is not a service")).hint("write `NAME` or `NAME.NAMESPACE`"))
}

fn dns_target(text: &str) -> Result<(), Wrong> {
    let Some((name, port)) = text.rsplit_once(':') else {
        return Err(Wrong::new(format!("`{text}` has no port")).hint(format!("add one: `{text}:50051`")));
    };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(Wrong::new(format!("`{text}` has no port to dial")).hint("write a port from 1 to 65535"));
    }
    if text.parse::<std::net::SocketAddr>().is_ok() {
        return Err(Wrong::new(format!("`{text}` is an address, not a name")).hint("write it as `address`"));
    }
    // A dot at the end says that the name is whole, and no search list is gone through.
    host(name.strip_suffix('.').unwrap_or(name), "a host name")
}

fn collector(text: &str) -> Result<(), Wrong> {
    match Collector::parse(text, None) {
        Some(_) => Ok(()),
        None => {
            let wrong = Wrong::new(format!("`{}` is not the URL of a collector", Collector::shown(text)));
            Err(wrong.hint(COLLECTOR_HINT))
        }
    }
}

fn control(text: &str) -> Result<(), Wrong> {
    match ControlAddress::parse(text) {
        Some(_) => Ok(()),
        None => {
            let wrong = Wrong::new(format!("`{}` is not the URL of a control plane", Collector::shown(text)));
            Err(wrong.hint(CONTROL_HINT))
        }
    }
}

fn socket(text: &str) -> Result<(), Wrong> {
    if text.len() > SOCKET_BYTES_MAX {
        let wrong = Wrong::new(format!("the path of a Unix socket has {} bytes here", text.len()));
        return Err(wrong.hint(format!("at most {SOCKET_BYTES_MAX} are possible")));
    }
    no_control(text)
}

/// The path in `unix:PATH`, or in `unix://PATH` as SPIFFE writes it.
pub(crate) fn socket_path(text: &str) -> &str {
    let path = text.strip_prefix("unix:").unwrap_or(text);
    path.strip_prefix("//").unwrap_or(path)
}

fn unix_socket(text: &str) -> Result<(), Wrong> {
    match socket_path(text) {
        path if text.starts_with("unix:") && !path.is_empty() => socket(path),
        _ => {
            let wrong = Wrong::new(format!("`{text}` is not a Unix socket"));
            Err(wrong.hint("write `unix:` and its path, as `unix:/run/spire/agent.sock`"))
        }
    }
}

fn no_control(text: &str) -> Result<(), Wrong> {
    match text.chars().any(char::is_control) {
        true => Err(Wrong::new("the text has a control character in it").hint("remove it")),
        false => Ok(()),
    }
}

fn spiffe_id(text: &str) -> Result<(), Wrong> {
    SpiffeId::parse(text).map(|_| ()).map_err(|rule| {
        Wrong::new(format!("`{text}` is not a SPIFFE id"))
            .hint(format!("{rule}; as `spiffe://cluster.local/ns/shop/sa/orders`"))
    })
}

fn caller(text: &str) -> Result<(), Wrong> {
    if text == "*" {
        return Ok(());
    }
    match text.strip_suffix('*') {
        None => spiffe_id(text),
        // An open end would let `ns/shop*` cover `ns/shop-guests`.
        Some(beginning) => match beginning.strip_suffix('/') {
            Some(whole) if SpiffeId::parse(whole).is_ok() => Ok(()),
            _ => Err(Wrong::new(format!("`{text}` is not the beginning of SPIFFE ids"))
                .hint("end it with `/*` after a whole segment, as `spiffe://cluster.local/ns/shop/*`")),
        },
    }
}

/// Headers that reach the app otherwise than they came, so that a rule on them would not be about what the app sees.
const NOT_PASSED_ON: [&str; 6] =
    ["host", "x-forwarded-client-cert", "traceparent", "tracestate", "b3", "outrigger-unprocessed"];
/// Beginnings of the names of such.
const NOT_PASSED_ON_BEGINNINGS: [&str; 2] = ["grpc-", "x-b3-"];

fn passed_on(text: &str) -> Result<(), Wrong> {
    let begins = NOT_PASSED_ON_BEGINNINGS.iter().any(|beginning| text.starts_with(beginning));
    if NOT_PASSED_ON.contains(&text) || begins {
        let wrong = Wrong::new(format!("no rule can go by the header `{text}`"));
        return Err(wrong.hint(match text {
            "x-forwarded-client-cert" => "sidecars write it themselves; say who calls in `from`",
            _ => "sidecars and the protocol write it anew; go by a header of your own",
        }));
    }
    Ok(())
}

fn grpc_service(text: &str) -> Result<(), Wrong> {
    no_leading_slash(text)?;
    if text.split('.').all(is_identifier) {
        return Ok(());
    }
    Err(Wrong::new(format!("`{text}` is not a gRPC service")).hint(match text.contains('/') {
        true => "write `package.Service`, without a method",
        false => "write `package.Service`, as the proto file names it",
    }))
}

fn method(text: &str) -> Result<(), Wrong> {
    no_leading_slash(text)?;
    match text.split_once('/') {
        Some((service, method)) if service.split('.').all(is_identifier) && is_identifier(method) => Ok(()),
        _ => Err(Wrong::new(format!("`{text}` is not a method"))
            .hint("write `package.Service/Method`, as the proto file names it")),
    }
}

fn is_identifier(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

fn no_leading_slash(text: &str) -> Result<(), Wrong> {
    match text.strip_prefix('/') {
        Some(rest) => Err(Wrong::new(format!("`{text}` begins with a slash"))
            .hint(format!("write it without: `{}`", rest.trim_start_matches('/')))),
        None => Ok(()),
    }
}

fn header_name(text: &str) -> Result<(), Wrong> {
    if text.starts_with(':') {
        let wrong = Wrong::new(format!("`{text}` is a pseudo-header"));
        return Err(wrong.hint("use `match.host`, `match.service` or `match.method` for what they carry"));
    }
    let lower = text.to_ascii_lowercase();
    if !lower.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) {
        let wrong = Wrong::new(format!("`{text}` is not a header name"));
        return Err(wrong.hint("letters, digits and `-` make a header name"));
    }
    if lower != text {
        let wrong = Wrong::new(format!("the header name `{text}` is not in lower case"));
        return Err(wrong.hint(format!("write `{lower}`")));
    }
    Ok(())
}

fn changeable(text: &str) -> Result<(), Wrong> {
    if let Some(beginning) = PROTECTED_BEGINNINGS.iter().find(|beginning| text.starts_with(**beginning)) {
        let wrong = Wrong::new(format!("the header `{text}` cannot be changed"));
        return Err(wrong.hint(format!("`{beginning}*` belongs to the protocol")));
    }
    if PROTECTED.contains(&text) {
        let wrong = Wrong::new(format!("the header `{text}` cannot be changed"));
        return Err(
            wrong.hint(format!("nor can {}", spell::list(PROTECTED.into_iter().filter(|p| *p != text))))
        );
    }
    Ok(())
}

fn header_value(text: &str) -> Result<(), Wrong> {
    if !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
        let wrong = Wrong::new("the header value has a character that is not visible ASCII");
        return Err(wrong.hint("carry other text in a `-bin` header, in base64"));
    }
    if text.trim_matches(' ') != text {
        let wrong = Wrong::new("the header value begins or ends with a space");
        return Err(wrong.hint("a receiver cuts it off (RFC 9110 section 5.5); leave it out"));
    }
    Ok(())
}

fn visible(text: &str) -> Result<(), Wrong> {
    match text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(Wrong::new(format!("{text:?} has a space or a character that is not visible ASCII"))
            .hint("use letters, digits and punctuation")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_takes_what_it_should_and_refuses_the_rest() {
        let table: [(Text, &[&str], &[&str]); 16] = [
            (Text::Name, &["a", "pay-ments", "0a"], &["Pay", "-a", "a-", "a.b", "a_b"]),
            (Text::Host, &["a", "a.b.c", "10.0.0.1"], &["A", "a..b", "a:80", ".a", "a."]),
            (Text::Target, &["a", "a.b"], &["a.b.c", "A", "a."]),
            (Text::SpiffeId, &["spiffe://a/b"], &["*", "a/b"]),
            (
                Text::Caller,
                &["*", "spiffe://a/b", "spiffe://a/b/*", "spiffe://a/*"],
                &["**", "spiffe://a/b*", "spiffe://*", "spiffe://a/*/b", "spiffe://a//*", "a/*"],
            ),
            (
                Text::RuleHeader,
                &["x-a", "user-agent"],
                &["grpc-timeout", "x-forwarded-client-cert", ":path", "b3", "x-b3-traceid"],
            ),
            (Text::GrpcService, &["Greeter", "a.b.C"], &["/a.B", "a.B/C", "a..B", "1a.B"]),
            (Text::Method, &["a.B/C", "B/C"], &["/a.B/C", "a.B", "a.B/", "a.B/C/D", "a.B/*"]),
            (Text::CoveredMethods, &["a.B/C", "a.B/*"], &["*", "a.B", "/a.B/*"]),
            (Text::HeaderName, &["x-a", "grpc-timeout"], &[":path", "X-A", "x a"]),
            (Text::ChangedHeader, &["x-a", "user-agent"], &["grpc-timeout", "te", "outrigger-unprocessed"]),
            (Text::HeaderValue, &["", "a b"], &[" a", "a\n", "\u{e9}"]),
            (
                Text::DnsTarget,
                &["a:1", "a.b:50051"],
                &["a", "a:", "a:0", "a:65536", "10.0.0.1:80", "A:1", "[::1]:80"],
            ),
            (
                Text::Collector,
                &["http://a:4317", "https://[::1]:4317/", "HTTP://a"],
                &["a:4317", "grpc://a", "http://a/v1/traces", "http://u@a", "http://a:0", "http://a:99999"],
            ),
            (
                Text::UnixSocket,
                &["unix:a", "unix:/a/b", "unix:///a/b"],
                &["/a", "unix:", "unix://", "tcp://a:1"],
            ),
            (Text::Control, &["https://a:15012", "http://[::1]"], &["a:15012", "xds://a", "https://a/b"]),
        ];
        for (form, good, bad) in table {
            for text in good {
                assert_eq!(form.check(text), Ok(()), "{form:?} {text}");
            }
            for text in bad {
                assert!(form.check(text).is_err(), "{form:?} {text}");
            }
        }
    }
}
