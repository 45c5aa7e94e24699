//! SPIFFE ids, as the SPIFFE-ID standard (section 2) writes them.

use std::fmt;

/// A SPIFFE id: `spiffe://trust-domain/path`, at most 2,048 bytes, the trust domain in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    uri: String,
    /// Where the path begins (the slash), or the end.
    path: usize,
}

const SCHEME: &str = "spiffe://";
const BYTES_MAX: usize = 2_048;
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

impl SpiffeId {
    /// Reads an id; the error says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Err("a SPIFFE id begins with `spiffe://`");
        };
        if text.len() > BYTES_MAX {
            return Err("a SPIFFE id has at most 2048 bytes");
        }
        let domain = rest.split('/').next().unwrap_or_default();
        check_trust_domain(domain)?;
        let path = &rest[domain.len()..];
        for segment in path.split('/').skip(1) {
            if segment.is_empty() {
                return Err("a SPIFFE id has no empty path segment");
            }
            if segment == "." || segment == ".." {
                return Err("a SPIFFE id has no `.` or `..` segment");
            }
            if !segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
                return Err("a SPIFFE id's path has letters, digits, `-`, `.` and `_` only");
            }
        }
        Ok(Self { uri: text.to_owned(), path: SCHEME.len() + domain.len() })
    }

    /// The id of a service account: `spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    ///
    /// The parts must have been checked, as the parser does.
    pub fn of_account(trust_domain: &str, namespace: &str, account: &str) -> Self {
        Self {
            uri: format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{account}"),
            path: SCHEME.len() + trust_domain.len(),
        }
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.path]
    }

    /// The path with its leading slash; empty for the id of a trust domain itself.
    pub fn path(&self) -> &str {
        &self.uri[self.path..]
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

/// Checks the name of a trust domain; the error says which rule it breaks.
pub fn check_trust_domain(domain: &str) -> Result<(), &'static str> {
    if domain.is_empty() {
        return Err("a trust domain has at least one character");
    }
    if domain.len() > TRUST_DOMAIN_BYTES_MAX {
        return Err("a trust domain has at most 255 bytes");
    }
    if !domain.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b)) {
        return Err("a trust domain has lower-case letters, digits, `-`, `.` and `_` only");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_gives_back_its_trust_domain_and_path() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/orders").unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("cluster.local", "/ns/shop/sa/orders"));
        assert_eq!(SpiffeId::parse("spiffe://cluster.local").unwrap().path(), "");
        assert_eq!(id, SpiffeId::of_account("cluster.local", "shop", "orders"));
    }

    #[test]
    fn ids_that_break_a_rule_are_refused() {
        for bad in [
            "https://cluster.local/x",
            "spiffe://",
            "spiffe:///ns/a",
            "spiffe://Cluster.local/x",
            "spiffe://a/b//c",
            "spiffe://a/../c",
            "spiffe://a/b/",
            "spiffe://a/b?q",
            "spiffe://user@a/b",
            "spiffe://a:80/b",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
    }
}
