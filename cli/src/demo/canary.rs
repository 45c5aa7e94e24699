//! A canary in front of the viewer: the route of one service is edited, step by step, until all calls go to the second
//! version of its app. Each step waits until every sidecar has the edit, and counts where calls go then.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use crate::demo::control::Pages;
use crate::demo::files::{mesh_file, replace};
use crate::demo::mesh::{NAMESPACE, Replica, service_yaml};
use crate::demo::scrape;
use crate::demo::sidecar::Sidecar;

/// The service with two versions; it has as many replicas.
pub(crate) const SERVICE: &str = "products";

/// What percentage of its calls the second version gets, step by step.
pub(crate) const SHARES: [u32; 4] = [0, 10, 50, 100];

/// A method of it, to ask sidecars where it goes.
const METHOD: &str = "shop.ProductService/GetProduct";

const VERSIONS: [&str; 2] = ["v1", "v2"];

/// How long a step lasts where the demo lasts until it is told to stop.
const STEP: Duration = Duration::from_secs(5);

/// Calls are counted at least this long in a step, however short the demo.
const COUNTED_MIN: Duration = Duration::from_millis(250);

/// How long an edit may take from its acknowledgement until it is in force.
const IN_FORCE_WAIT: Duration = Duration::from_secs(15);

/// Between two looks at that.
const IN_FORCE_PERIOD: Duration = Duration::from_millis(10);

/// A count may be off by so many standard deviations of what chance makes of it, by [`SLACK`], and by a call
/// of each shopper, which began before a step and ended in it.
const DEVIATIONS: f64 = 5.0;

/// A part of the calls.
const SLACK: f64 = 0.02;

/// Makes versions of the service's replicas.
pub(crate) fn name_versions(replicas: &mut [Replica]) {
    let of_service = replicas.iter_mut().filter(|replica| replica.service == SERVICE);
    for (replica, version) in of_service.zip(VERSIONS) {
        replica.name = format!("{SERVICE}-{version}");
        replica.version = Some(version);
    }
}

/// The lines of the service in its mesh file, when so many of a hundred calls go to the second version.
pub(crate) fn routes(share: u32) -> String {
    let mut lines = "    routes:\n      - backends:\n".to_owned();
    for (version, weight) in VERSIONS.into_iter().zip([100 - share, share]) {
        let _ = writeln!(
            lines,
            "          - {{service: {SERVICE}, labels: {{version: {version}}}, weight: {weight}}}"
        );
    }
    lines
}

/// A roll-out, and what became of it.
#[derive(Debug)]
pub(crate) struct Canary {
    control: Pages,
    file: PathBuf,
    /// What the file says at each share.
    texts: [String; SHARES.len()],
    /// The pages of all sidecars.
    sidecars: Vec<SocketAddr>,
    /// The metrics of the sidecars beside each version.
    versions: Vec<SocketAddr>,
    /// How many shop: none of them has two calls of the service open.
    shoppers: u16,
    /// Those that are over.
    steps: Vec<Step>,
    /// The share of the one that is not.
    under_way: Option<u32>,
}

/// A step that is over.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    /// The percentage that the second version was to get.
    share: u32,
    /// How long the last sidecar took to acknowledge the edit; none: the store began with it.
    acknowledged: Option<Duration>,
    /// Calls that each version got while it was in force.
    calls: [u64; 2],
}

impl Canary {
    /// One that begins with the first share, which the file says already.
    pub(crate) fn new(
        folder: &Path,
        control: Pages,
        replicas: &[Replica],
        sidecars: &[Sidecar],
        shoppers: u16,
    ) -> Self {
        let beside = |version| sidecars.iter().find(|one| one.replica == format!("{SERVICE}-{version}"));
        Self {
            control,
            file: mesh_file(folder, SERVICE),
            texts: SHARES.map(|share| service_yaml(SERVICE, replicas, &routes(share))),
            sidecars: sidecars.iter().map(|sidecar| sidecar.admin).collect(),
            versions: VERSIONS.into_iter().filter_map(beside).map(|sidecar| sidecar.probes).collect(),
            shoppers,
            steps: Vec::new(),
            under_way: None,
        }
    }

    /// Goes through all steps, which share the time that the demo has, and tells each.
    ///
    /// # Errors
    /// When an edit does not reach every sidecar.
    pub(crate) async fn run(
        &mut self,
        opened: Instant,
        run_for: Option<Duration>,
        mut tell: impl FnMut(&str),
    ) -> Result<(), String> {
        for (number, share) in SHARES.into_iter().enumerate() {
            // From the edit on, so that wherever it is stopped it is told.
            self.under_way = Some(share);
            let acknowledged = match number {
                0 => None,
                _ => Some(self.edit(number).await?),
            };
            self.in_force(share).await?;
            tell(&edited(share, acknowledged, self.sidecars.len()));
            let before = self.counted().await?;
            sleep_until(end(opened, run_for, number).max(Instant::now() + COUNTED_MIN)).await;
            let now = self.counted().await?;
            let calls = [0, 1].map(|version| now[version].saturating_sub(before[version]));
            let step = Step { share, acknowledged, calls };
            tell(&step.told());
            self.steps.push(step);
            self.under_way = None;
        }
        Ok(())
    }

    /// What every step came to, a line each.
    pub(crate) fn table(&self) -> Vec<String> {
        let head = format!(
            "{:<22}{:>9}{:>9}{:>9}   acknowledged by all",
            "canary of products", "v1", "v2", "v2 got"
        );
        let row = |step: &Step| {
            let [one, two] = step.calls;
            let took = step
                .acknowledged
                .map_or_else(|| "from the start".to_owned(), |took| format!("after {} ms", took.as_millis()));
            format!("{:>4} % to v2{:<11}{one:>9}{two:>9}{:>9}   {took}", step.share, "", step.got())
        };
        let stopped = self.under_way.map(|share| format!("{share:>4} % to v2, when it was stopped"));
        [head].into_iter().chain(self.steps.iter().map(row)).chain(stopped).collect()
    }

    /// The steps in which calls went elsewhere than the file says, a line each.
    pub(crate) fn faults(&self) -> Vec<String> {
        let off = self.steps.iter().filter(|step| step.is_off(self.shoppers));
        off.map(|step| format!("the canary is off: {}", step.told())).collect()
    }

    /// Edits the file and waits until every sidecar has acknowledged it. Returns how long the last one took.
    async fn edit(&self, number: usize) -> Result<Duration, String> {
        let before = self.control.version().await?;
        let edited = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        replace(&self.file, &self.texts[number])
            .map_err(|error| format!("{}: {error}", self.file.display()))?;
        let acknowledged = self.control.acknowledged(before, self.sidecars.len()).await?;
        Ok(Duration::from_secs_f64((acknowledged - edited.as_secs_f64()).max(0.0)))
    }

    /// Waits until calls of every sidecar go by that share: what is acknowledged is in force a moment later.
    async fn in_force(&self, share: u32) -> Result<(), String> {
        let end = Instant::now() + IN_FORCE_WAIT;
        let question = format!("/explain?authority={SERVICE}.{NAMESPACE}&method={METHOD}");
        for sidecar in &self.sidecars {
            while weight_of_second(
                &scrape::page(*sidecar, &question).await.map_err(|error| error.to_string())?,
            ) != Some(u64::from(share))
            {
                if Instant::now() > end {
                    return Err(format!(
                        "http://{sidecar}{question} does not show {share} % within {IN_FORCE_WAIT:?}"
                    ));
                }
                sleep(IN_FORCE_PERIOD).await;
            }
        }
        Ok(())
    }

    /// The calls that each version got so far, by the sidecar beside it.
    async fn counted(&self) -> Result<[u64; 2], String> {
        let [one, two] = self.versions[..] else { return Err(format!("{SERVICE} has no two versions")) };
        let (one, two) = tokio::try_join!(scrape::metrics(one), scrape::metrics(two))
            .map_err(|error| format!("{SERVICE}: {error}"))?;
        // Counters are whole and below 2^53.
        Ok([one, two].map(|samples| samples.sum("grpc_server_handled_total", &[]).round() as u64))
    }
}

impl Step {
    fn told(&self) -> String {
        let Self { share, calls: [one, two], .. } = self;
        format!("canary: at {share} % v1 got {one} calls and v2 {two}, which is {}", self.got())
    }

    /// The percentage that the second version got.
    fn got(&self) -> String {
        let [one, two] = self.calls;
        match one + two {
            0 => "-".to_owned(),
            all => format!("{:.1} %", 100.0 * two as f64 / all as f64),
        }
    }

    /// Whether chance and calls of the step before do not make so much of it.
    fn is_off(&self, shoppers: u16) -> bool {
        let [one, two] = self.calls.map(|calls| calls as f64);
        let (all, share) = (one + two, f64::from(self.share) / 100.0);
        let deviation = (all * share * (1.0 - share)).sqrt();
        (two - all * share).abs() > DEVIATIONS * deviation + SLACK * all + f64::from(shoppers)
    }
}

/// When a step is over.
fn end(opened: Instant, run_for: Option<Duration>, number: usize) -> Instant {
    let steps = u32::try_from(SHARES.len()).unwrap_or(u32::MAX);
    let step = run_for.map_or(STEP, |run_for| run_for / steps);
    opened + step * u32::try_from(number + 1).unwrap_or(u32::MAX)
}

fn edited(share: u32, acknowledged: Option<Duration>, sidecars: usize) -> String {
    match acknowledged {
        None => format!("canary: {SERVICE}.yaml gives v2 {share} % of the calls, as every sidecar has it"),
        Some(took) => format!(
            "canary: {SERVICE}.yaml edited to give v2 {share} %; all {sidecars} sidecars had acknowledged it after {} ms",
            took.as_millis()
        ),
    }
}

/// What an explained call says of the second version.
fn weight_of_second(explained: &Value) -> Option<u64> {
    let mut backends = explained["backends"].as_array()?.iter();
    backends.find(|backend| backend["labels"]["version"] == VERSIONS[1])?["weight"].as_u64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn step(share: u32, calls: [u64; 2]) -> Step {
        Step { share, acknowledged: None, calls }
    }

    #[test]
    fn a_count_is_off_when_chance_does_not_explain_it() {
        for (share, calls) in
            [(0, [150, 0]), (10, [135, 15]), (10, [13, 2]), (50, [80, 70]), (100, [3, 140]), (10, [0, 0])]
        {
            assert!(!step(share, calls).is_off(5), "{share} {calls:?}");
        }
        for (share, calls) in
            [(0, [140, 10]), (10, [75, 75]), (10, [1_500, 15]), (50, [150, 0]), (100, [75, 75])]
        {
            assert!(step(share, calls).is_off(5), "{share} {calls:?}");
        }
        assert!(!step(100, [20, 60]).is_off(20), "each shopper had a call open when the step began");
    }

    #[test]
    fn steps_share_the_time_there_is() {
        let opened = Instant::now();
        let ends = |run_for| [0, 1, 2, 3].map(|number| (end(opened, run_for, number) - opened).as_secs_f64());
        assert_eq!(ends(Some(Duration::from_secs(10))), [2.5, 5.0, 7.5, 10.0]);
        assert_eq!(ends(None), [5.0, 10.0, 15.0, 20.0]);
    }

    #[test]
    fn the_weight_of_the_second_version_is_found_by_its_label() {
        let backend = |version: &str, weight: u32| json!({"labels": {"version": version}, "weight": weight});
        let explained = json!({"backends": [backend("v1", 90), backend("v2", 10)]});
        assert_eq!(weight_of_second(&explained), Some(10));
        assert_eq!(weight_of_second(&json!({"backends": [backend("v1", 1)]})), None);
        assert_eq!(weight_of_second(&json!({"refused": {}})), None);
    }

    #[test]
    fn the_table_has_a_row_for_each_step_that_began() {
        let rows = Canary {
            control: crate::demo::control::Control::lay_out([127, 0, 0, 1].into())
                .expect("addresses")
                .pages(),
            file: PathBuf::new(),
            texts: Default::default(),
            sidecars: Vec::new(),
            versions: Vec::new(),
            shoppers: 20,
            steps: vec![
                step(0, [90, 0]),
                Step { acknowledged: Some(Duration::from_millis(64)), ..step(10, [91, 9]) },
            ],
            under_way: Some(50),
        }
        .table();
        let cells: Vec<Vec<&str>> = rows.iter().map(|row| row.split_whitespace().collect()).collect();
        assert_eq!(cells[1], ["0", "%", "to", "v2", "90", "0", "0.0", "%", "from", "the", "start"]);
        assert_eq!(cells[3], ["50", "%", "to", "v2,", "when", "it", "was", "stopped"]);
        assert_eq!(cells[2], ["10", "%", "to", "v2", "91", "9", "9.0", "%", "after", "64", "ms"]);
    }
}
