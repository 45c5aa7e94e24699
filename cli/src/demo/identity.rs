//! Who is who in a demo. Nobody makes a certificate: each service gets a join token, its sidecars ask the control plane by it,
//! and renew what they get for as long as the demo runs. Told from what the control plane writes of each certificate.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use config::spiffe::SpiffeId;
use control::ca::make::make_token;
use serde_json::Value;

use crate::demo::mesh::{AUTHORITY, spiffe_id, token_file};
use crate::demo::scrape::Samples;

/// Where the control plane writes a line for each certificate.
pub(crate) const AUDIT: &str = "audit.jsonl";

/// How long certificates live: a day anywhere else, but nobody watches a demo for twelve hours.
pub(crate) const LIFE: Duration = Duration::from_secs(30);

/// How long a service may take to join with its token: longer than anybody watches a demo, for sidecars that start again.
const TOKEN_LIFE: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Writes a join token for each of `services` into `folder`.
///
/// # Errors
/// What cannot be written.
pub(crate) fn write_tokens(folder: &Path, services: &[&str]) -> Result<(), String> {
    for service in services {
        let id = spiffe_id(service);
        let id = SpiffeId::parse(&id).map_err(|rule| format!("{id}: {rule}"))?;
        let token = make_token(&folder.join(AUTHORITY), &id, TOKEN_LIFE, false, SystemTime::now())?;
        let file = folder.join(token_file(service));
        let written = ::files::write(&file, token.as_bytes(), ::files::PRIVATE);
        written.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

/// What the control plane has signed, and what it has refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Certificates that were given for a token.
    pub(crate) joined: u64,
    /// Certificates that were given for the one before.
    pub(crate) renewed: u64,
    /// Who was refused, and why.
    pub(crate) refused: Vec<String>,
    /// What signed last.
    root: String,
}

impl Account {
    /// Reads the audit in `folder`.
    ///
    /// # Errors
    /// When there is none, or a line is none of ours.
    pub(crate) fn read(folder: &Path) -> Result<Self, String> {
        let file = folder.join(AUDIT);
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        Self::of(&text).map_err(|line| format!("{}: not a line of an audit: {line}", file.display()))
    }

    fn of(text: &str) -> Result<Self, String> {
        let mut account = Self::default();
        for line in text.lines() {
            let parsed: Value = serde_json::from_str(line).map_err(|_| line.to_owned())?;
            let word = |key: &str| parsed[key].as_str().unwrap_or_default().to_owned();
            match (word("event").as_str(), word("by").as_str()) {
                ("issued", "token") => account.joined += 1,
                ("issued", "certificate") => account.renewed += 1,
                ("refused", _) => account.refused.push(format!("{}: {}", word("reason"), word("message"))),
                // Its own.
                ("own", _) => {}
                _ => return Err(line.to_owned()),
            }
            if parsed["root"].is_string() {
                account.root = word("root");
            }
        }
        Ok(account)
    }

    /// Who signs, when everybody has joined.
    pub(crate) fn opening(&self) -> String {
        let life = LIFE.as_secs();
        format!(
            "who is who: {} sidecars joined by token and have a certificate of the control plane, signed by {}; it lives {life} s \
             here (a day elsewhere) and is renewed at half of that",
            self.joined, self.root
        )
    }

    /// What came of it; `samples` are of all sidecars.
    pub(crate) fn closing(&self, samples: &Samples) -> String {
        let soonest = samples.named("outrigger_certificate_expiry_timestamp_seconds");
        let leaves =
            soonest.filter(|sample| sample.label("certificate") == "leaf").map(|sample| sample.value);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let left = leaves.fold(f64::INFINITY, f64::min) - now;
        format!(
            "certificates: {} by token, {} renewed meanwhile, {} refused; every sidecar's is good for another {left:.0} s at least",
            self.joined,
            self.renewed,
            self.refused.len()
        )
    }

    /// What must not have been.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.refused.iter().map(|why| format!("the control plane refused a certificate: {why}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_gets_a_token_of_its_own_that_only_we_can_read() {
        use std::os::unix::fs::PermissionsExt as _;

        let folder = tempfile::tempdir().expect("a folder");
        write_tokens(folder.path(), &["users", "orders"]).expect("tokens");
        let read = |service| fs::read_to_string(folder.path().join(token_file(service))).expect("a token");
        assert_ne!(read("users"), read("orders"));
        let mode =
            fs::metadata(folder.path().join(token_file("users"))).expect("a token").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_account_tells_joins_from_renewals_and_every_refusal() {
        let text = r#"{"event":"own","root":"root-1"}
{"event":"issued","by":"token","root":"root-1"}
{"event":"issued","by":"certificate","root":"root-2"}
{"event":"issued","by":"certificate","root":"root-2"}
{"event":"refused","reason":"foreign_id","message":"not yours"}
"#;
        let account = Account::of(text).expect("an account");
        assert_eq!((account.joined, account.renewed, account.root.as_str()), (1, 2, "root-2"));
        assert_eq!(account.faults(), ["the control plane refused a certificate: foreign_id: not yours"]);
        assert!(Account::of("no\n").is_err() && Account::of("{}\n").is_err());
    }
}
