//! The control plane of a demo: its process, and what its pages say of the sidecars.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::demo::identity::{AUDIT, LIFE};
use crate::demo::mesh::{AUTHORITY, Port};
use crate::demo::processes::Process;
use crate::demo::scrape;

/// What it is told, in the folder of all files.
pub(crate) const FILE: &str = "control.yaml";

/// How long sidecars may take to acknowledge.
const ACKNOWLEDGE_WAIT: Duration = Duration::from_secs(15);

/// Between two looks at whether they have.
const ACKNOWLEDGE_PERIOD: Duration = Duration::from_millis(20);

/// The type of the resource that says where calls go.
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// The control plane: where it listens, and its process while there is one.
#[derive(Debug)]
pub(crate) struct Control {
    ads: Port,
    admin: Port,
    process: Option<Process>,
}

impl Control {
    /// Takes its addresses; nothing runs yet.
    ///
    /// # Errors
    /// When there is no free port.
    pub(crate) fn lay_out(host: IpAddr) -> io::Result<Self> {
        Ok(Self { ads: Port::take(host)?, admin: Port::take(host)?, process: None })
    }

    /// Where sidecars connect to.
    pub(crate) fn ads(&self) -> SocketAddr {
        self.ads.address
    }

    /// Its pages.
    pub(crate) fn pages(&self) -> Pages {
        Pages(self.admin.address)
    }

    /// The `control.yaml` of one that serves the folder `mesh`.
    pub(crate) fn yaml(&self, mesh: &str) -> String {
        let (ads, admin) = (self.ads.address, self.admin.address);
        let (host, life) = (ads.ip(), LIFE.as_secs());
        format!(
            "mesh: {mesh}\n\
             ads: {{listen: \"{ads}\"}}\n\
             admin: {{listen: \"{admin}\"}}\n\
             ca: {{folder: {AUTHORITY}, leaf_life: {life}s, names: [\"{host}\"], audit: {AUDIT}}}\n"
        )
    }

    /// Starts it on the files in `folder`, or starts it again.
    ///
    /// # Errors
    /// One message that names it, with its last words.
    pub(crate) async fn start(&mut self, folder: &Path) -> Result<(), String> {
        let file = folder.join(FILE);
        self.ads.let_go();
        self.admin.let_go();
        let args = ["control", &file.to_string_lossy()];
        let process = Process::start("control plane", &args, folder).map_err(|error| error.to_string())?;
        self.process.insert(process).first_line().await.map(drop)
    }

    /// Its process, while there is one.
    pub(crate) fn process(&mut self) -> &mut Option<Process> {
        &mut self.process
    }
}

/// The pages of a control plane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages(SocketAddr);

impl Pages {
    /// The command that shows them to people.
    pub(crate) fn status_command(self) -> String {
        // As we were called, so that it can be typed where we were.
        let program = std::env::args().next().unwrap_or_else(|| "outrigger".to_owned());
        format!("{program} status --control {}", self.0)
    }

    /// The version of the mesh that is served.
    ///
    /// # Errors
    /// When the page does not answer.
    pub(crate) async fn version(self) -> Result<u64, String> {
        let mesh = self.page("/mesh").await?;
        mesh["version"].as_u64().ok_or_else(|| format!("/mesh of the control plane has no version: {mesh}"))
    }

    /// Waits until `sidecars` of them hold all that they were sent.
    ///
    /// # Errors
    /// When they do not in time, or one of them rejects something.
    pub(crate) async fn settled(self, sidecars: usize) -> Result<(), String> {
        self.wait(sidecars, "what it was sent", |of_type| {
            (of_type["acked_version"] == of_type["sent_version"]).then_some(0.0)
        })
        .await
        .map(drop)
    }

    /// Waits until the mesh has a later version than `before` and `sidecars` of them have acknowledged its routes. Returns
    /// when the last of them did, in seconds of Unix time by the control plane's clock.
    ///
    /// # Errors
    /// When they do not in time, or one of them rejects something.
    pub(crate) async fn acknowledged(self, before: u64, sidecars: usize) -> Result<f64, String> {
        let end = Instant::now() + ACKNOWLEDGE_WAIT;
        let version = loop {
            let version = self.version().await?;
            if version > before {
                break version;
            }
            if Instant::now() > end {
                let files = self.page("/mesh").await?["files"].clone();
                return Err(format!(
                    "the control plane did not take the edit within {ACKNOWLEDGE_WAIT:?}: {files}"
                ));
            }
            sleep(ACKNOWLEDGE_PERIOD).await;
        };
        self.wait(sidecars, "the edit", |of_type| match of_type["type"] == ROUTES {
            true => {
                let acked = of_type["acked_version"].as_str().and_then(|acked| acked.parse::<u64>().ok());
                of_type["acked_at"].as_f64().filter(|_| acked.is_some_and(|acked| acked >= version))
            }
            false => Some(0.0),
        })
        .await
    }

    /// How many proxies are connected, and how many of them hold all that they were sent.
    ///
    /// # Errors
    /// When the page does not answer.
    pub(crate) async fn standing(self) -> Result<(usize, usize), String> {
        let proxies = self.page("/proxies").await?;
        let each = |proxy| {
            every_type(proxy, &|of_type| (of_type["acked_version"] == of_type["sent_version"]).then_some(0.0))
        };
        let proxies = proxies.as_array().cloned().unwrap_or_default();
        Ok((proxies.len(), proxies.iter().filter(|proxy| each(proxy).is_some()).count()))
    }

    /// Waits until `is_held` of each type of `sidecars` proxies, and returns the greatest of its answers.
    async fn wait(
        self,
        sidecars: usize,
        what: &str,
        is_held: impl Fn(&Value) -> Option<f64>,
    ) -> Result<f64, String> {
        let end = Instant::now() + ACKNOWLEDGE_WAIT;
        loop {
            let proxies = self.page("/proxies").await?;
            let proxies = proxies.as_array().map_or(&[][..], Vec::as_slice);
            if let Some(why) = proxies.iter().find_map(rejection) {
                return Err(why);
            }
            let held: Vec<f64> = proxies.iter().filter_map(|proxy| every_type(proxy, &is_held)).collect();
            if held.len() >= sidecars {
                return Ok(held.into_iter().fold(0.0, f64::max));
            }
            if Instant::now() > end {
                let (held, connected) = (held.len(), proxies.len());
                return Err(format!(
                    "of {sidecars} sidecars {connected} are connected to the control plane and {held} have \
                     acknowledged {what} within {ACKNOWLEDGE_WAIT:?}"
                ));
            }
            sleep(ACKNOWLEDGE_PERIOD).await;
        }
    }

    async fn page(self, path: &str) -> Result<Value, String> {
        scrape::page(self.0, path).await.map_err(|error| format!("control plane: {error}"))
    }
}

/// The greatest answer of a proxy's types, if each has one and there are types at all.
fn every_type(proxy: &Value, is_held: &impl Fn(&Value) -> Option<f64>) -> Option<f64> {
    let types = proxy["types"].as_array().filter(|types| !types.is_empty())?;
    // Whoever has not asked for routes yet cannot hold them.
    types.iter().find(|of_type| of_type["type"] == ROUTES)?;
    types.iter().try_fold(0.0, |latest: f64, of_type| Some(latest.max(is_held(of_type)?)))
}

/// What a proxy has rejected, and why.
fn rejection(proxy: &Value) -> Option<String> {
    let nack = proxy["types"].as_array()?.iter().find(|of_type| !of_type["nack"].is_null())?;
    Some(format!("{} rejects what it was sent: {}", proxy["id"], nack["nack"]["reason"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn acked(of_type: &Value) -> Option<f64> {
        (of_type["acked_version"] == of_type["sent_version"]).then(|| of_type["acked_at"].as_f64())?
    }

    #[test]
    fn a_proxy_that_owes_one_type_or_has_not_asked_for_routes_holds_nothing_yet() {
        let of_type = |name: &str, acked: &str, at: f64| json!({"type": name, "sent_version": "2", "acked_version": acked, "acked_at": at});
        let (routes, clusters) = (of_type(ROUTES, "2", 7.0), of_type("clusters", "2", 9.0));
        let of = |types: &[&Value]| every_type(&json!({"types": types}), &acked);
        assert_eq!(of(&[&routes, &clusters]), Some(9.0));
        assert_eq!(of(&[&routes, &of_type("clusters", "1", 9.0)]), None);
        assert_eq!((of(&[&clusters]), of(&[])), (None, None));
    }

    #[test]
    fn a_rejection_is_told_with_its_reason() {
        let nack = json!({"version": "2", "reason": "no such cluster", "at": 1.0});
        let proxy = json!({"id": "users.shop~a~b", "types": [{"nack": null}, {"nack": nack}]});
        let told = rejection(&proxy).expect("a rejection");
        assert!(told.contains("users.shop~a~b") && told.contains("no such cluster"), "{told}");
        assert_eq!(rejection(&json!({"types": [{"nack": null}]})), None);
    }
}
