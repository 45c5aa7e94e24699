//! Where OTLP/gRPC is served: `http://host:port` or `https://host:port`.

use crate::url;

/// The port of OTLP/gRPC, for who names none.
const PORT: u16 = 4_317;

/// What would be right, as a hint says it.
pub const COLLECTOR_HINT: &str =
    "write `http://host:port` or `https://host:port`, where OTLP/gRPC is served, as `http://127.0.0.1:4317`";

/// A collector of traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// It speaks TLS.
    pub tls: bool,
    /// A name or an address, without the brackets of IPv6.
    pub host: String,
    /// From 1 on.
    pub port: u16,
}

impl Collector {
    /// Reads a URL. `bare_tls` says what a text without a scheme means; `None`: it is none.
    pub fn parse(url: &str, bare_tls: Option<bool>) -> Option<Self> {
        url::parse(url, bare_tls, PORT).map(|(tls, host, port)| Self { tls, host, port })
    }

    /// A URL that is none of ours, as a message may show it: without the password that may stand before an `@`, and the
    /// token that may stand behind a `?`.
    pub fn shown(url: &str) -> String {
        let (url, cut) = match url.find(['?', '#']) {
            Some(end) => (&url[..end], "?..."),
            None => (url, ""),
        };
        match url.rsplit_once('@') {
            None => format!("{url}{cut}"),
            Some((before, rest)) => match before.split_once("://") {
                Some((scheme, _)) => format!("{scheme}://...@{rest}{cut}"),
                None => format!("...@{rest}{cut}"),
            },
        }
    }
}

impl std::fmt::Display for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        url::write(f, self.tls, &self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_as_it_is_meant_or_not_at_all() {
        for (url, bare_tls, read) in [
            ("http://a:1", None, "http://a:1"),
            ("HTTPS://a.example/", None, "https://a.example:4317"),
            ("http://[::1]:65535", None, "http://[::1]:65535"),
            ("http://[::1]", None, "http://[::1]:4317"),
            ("a_b-c.d:4317", Some(true), "https://a_b-c.d:4317"),
            ("10.0.0.1", Some(false), "http://10.0.0.1:4317"),
        ] {
            assert_eq!(Collector::parse(url, bare_tls).unwrap().to_string(), read, "{url}");
        }
        for bad in [
            "",
            "a:4317",
            "grpc://a",
            "http://",
            "http://:4317",
            "http://a:",
            "http://a:0",
            "http://a:65536",
            "http://a:+1",
            "http://a:99999",
            "http://a/v1/traces",
            "http://a//",
            "http://u@a",
            "http://a?b",
            "http://a b",
            "http://[a]:1",
            "http://[::1",
            "http://[::1]1",
            "http://::1",
            "http://\u{e9}",
        ] {
            assert_eq!(Collector::parse(bad, None), None, "{bad}");
        }
    }

    #[test]
    fn nothing_secret_of_a_url_is_shown() {
        for (url, shown) in [
            ("http://user:s3cr3t@a:1", "http://...@a:1"),
            ("http://user:s3@cr3t@a:1/x", "http://...@a:1/x"),
            ("user:s3cr3t@a", "...@a"),
            ("http://a/v1?key=s3cr3t", "http://a/v1?..."),
            ("http://a:0", "http://a:0"),
        ] {
            assert_eq!(Collector::shown(url), shown);
        }
    }
}
