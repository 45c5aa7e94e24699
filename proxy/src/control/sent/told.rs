//! What people are told of the mesh that a control plane sends; each thing once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use config::model::{Mesh, Sidecar};
use files::Reports;

use crate::control::journal::Journal;
use crate::control::sent::fate::Fate;
use crate::control::sent::verdict::NAME;

/// Where it is told: on stderr and on the pages.
pub(crate) struct Told {
    pub(crate) journal: Arc<Journal>,
    pub(crate) reports: Reports,
}

impl Told {
    /// The services of this sidecar's that are not in the mesh, and those that are again.
    pub(crate) fn absent(&self, sidecar: &Sidecar, mesh: &Mesh) {
        let mut names: Vec<&str> = sidecar.inbound.iter().map(|entry| entry.service.as_str()).collect();
        names.push(&sidecar.service);
        names.sort_unstable();
        names.dedup();
        names.retain(|name| mesh.service(name, &sidecar.namespace).is_none());
        let absent: Vec<String> = names.iter().map(|name| format!("{name}.{}", sidecar.namespace)).collect();
        let before = std::mem::replace(&mut self.journal.sent().absent, absent.clone());
        for name in absent.iter().filter(|name| !before.contains(name)) {
            let entered =
                sidecar.inbound.iter().any(|entry| name.starts_with(&format!("{}.", entry.service)));
            let so = if entered { ": calls to it end UNAVAILABLE, and /ready fails" } else { "" };
            self.reports.say(format!("{NAME} has no service {name}{so}; correct the name, or add it there"));
        }
        for name in before.iter().filter(|name| !absent.contains(name)) {
            self.reports.say(format!("{NAME} has service {name} now"));
        }
    }

    /// Those of which nobody says who may call them.
    pub(crate) fn unruled(&self, unruled: &BTreeSet<String>) {
        let before = std::mem::replace(&mut self.journal.sent().unruled, unruled.clone());
        for name in unruled.difference(&before) {
            self.reports.say(format!(
                "{NAME} has service {name}, and says nothing yet of who may call it: nobody may. Calls to it end \
                 UNAVAILABLE, and /ready fails; /config says whether its rules were refused"
            ));
        }
        for name in before.difference(unruled) {
            self.reports.say(format!("nothing is lacking any more of the rules about callers of {name}"));
        }
    }

    /// What has become of what a control plane has taken away, which stays for `limit`.
    pub(crate) fn fate(&self, fate: &Fate, limit: Duration) {
        if matches!(fate, Fate::HeldBack(_) | Fate::AllHeldBack) {
            self.journal.sent().held_back_total += 1;
        }
        self.reports.say(match fate {
            Fate::HeldBack(name) => {
                format!(
                    "{name} has no endpoint any more, says the control plane; those it had stay for {limit:?}"
                )
            }
            Fate::Returned(name) => format!("{name} has endpoints again"),
            Fate::LetGo(name) => format!("{name} has had no endpoint for {limit:?}: it has none from now on"),
            Fate::AllHeldBack => {
                format!("{NAME} has no service at all; that is believed if it stays so for {limit:?}")
            }
            Fate::AllReturned => format!("{NAME} has services again"),
            Fate::AllLetGo => format!("{NAME} has had no service for {limit:?}: there are none from now on"),
        });
    }
}
