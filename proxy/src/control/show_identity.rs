//! What `/config` and `/ready` say of our own identity.

use std::time::{SystemTime, UNIX_EPOCH};

use config::identity::IdentitySource;
use identity::chain::Summary;
use identity::state::Trouble;
use serde_json::{Value, json};

use crate::context::Shared;
use crate::control::journal::{Journal, Record, Source};
use crate::control::runway::standing;
use crate::tables::Tables;
use crate::tls::credentials::Credentials;

/// The identity in force, where it comes from and how it fares; `None`: there is to be none.
pub(crate) fn identity(journal: &Journal, shared: &Shared) -> Option<Value> {
    let source = journal.identity_source.as_ref()?;
    let mut shown = match source {
        IdentitySource::Files(files) => {
            json!({"source": "files", "cert": files.cert, "key": files.key, "bundle": files.bundle})
        }
        IdentitySource::Control(issued) => {
            json!({"source": "control", "token": issued.token, "cache": issued.cache})
        }
        IdentitySource::WorkloadApi(socket) => json!({"source": "workload_api", "socket": socket}),
    };
    let tables = shared.tables.load();
    let own = tables.credentials.as_deref();
    let now = SystemTime::now();
    let (stands, which) = standing(journal.runway(own).as_ref(), now);
    shown["state"] = stands.as_str().into();
    shown["state_is_that_of"] = which.into();
    shown["spiffe_id"] = own.map(|own| own.leaf().id.as_str()).into();
    shown["expires_at_unix_seconds"] = own.map(|own| unix(own.leaf().not_after)).into();
    shown["certificate"] = own.and_then(leaf).into();
    shown["roots"] = own.map(roots).into();
    if source.files().is_none() {
        let issued = journal.issued();
        shown["from"] = issued.origin.map(|origin| origin.as_str()).into();
        shown["renew_at_unix_seconds"] = issued.renew_at.map(unix).into();
        shown["renewals"] = issued.counts.renewals.into();
        shown["trouble"] = issued.trouble.as_ref().map(trouble).into();
        shown["trust_trouble"] = issued.trust_trouble.as_ref().map(trouble).into();
    }
    merge(&mut shown, &journal.record(Source::Identity));
    Some(shown)
}

/// Why no calls should be sent here, as far as that is the identity's fault.
pub(crate) fn not_ready(journal: &Journal, shared: &Shared, tables: &Tables) -> Option<String> {
    journal.identity_source.as_ref()?;
    let Some(own) = tables.credentials.as_deref() else {
        let why = shared.no_identity.load_full();
        return Some(format!(
            "no identity yet: {}",
            why.as_deref().map_or("it is being asked for", String::as_str)
        ));
    };
    let now = SystemTime::now();
    if own.leaf().not_after > now {
        return None;
    }
    let why =
        journal.issued().trouble.as_ref().map(|trouble| format!(": {}", trouble.why)).unwrap_or_default();
    Some(format!("the identity has expired{why}"))
}

fn leaf(own: &Credentials) -> Option<Value> {
    let Summary { issuer, serial, not_before, not_after, .. } = Summary::read(own.material.chain.first()?)?;
    Some(json!({
        "issuer": issuer, "serial": serial,
        "not_before_unix_seconds": unix(not_before), "not_after_unix_seconds": unix(not_after),
    }))
}

/// Whom we believe, each with its end.
fn roots(own: &Credentials) -> Vec<Value> {
    let roots = own.material.roots.iter().filter_map(|root| Summary::read(root));
    let show = |root: Summary| json!({"subject": root.subject, "serial": root.serial, "not_after_unix_seconds": unix(root.not_after)});
    roots.map(show).collect()
}

fn trouble(trouble: &Trouble) -> Value {
    let Trouble { reason, why, since, attempts } = trouble;
    json!({"reason": reason.as_str(), "why": why, "since_unix_seconds": unix(*since), "attempts": attempts})
}

/// Adds how a source has fared.
pub(crate) fn merge(value: &mut Value, record: &Record) {
    value["version"] = record.version.into();
    value["sha256"] = record.digest.as_str().into();
    value["in_force_since_unix_seconds"] = unix(record.since).into();
    value["rejected"] = record.rejection.as_ref().map_or(Value::Null, |rejection| {
        json!({
            "at_unix_seconds": unix(rejection.at),
            "sha256": rejection.digest,
            "faults": rejection.faults.lines().collect::<Vec<_>>(),
        })
    });
}

pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
