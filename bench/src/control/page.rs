//! All figures of the control plane, and the tables of them for `bench/README.md`.

use std::fmt::Write as _;

use serde::Serialize;

use crate::control::change::{ChangeFigures, Changes};
use crate::control::crowd::Crowd;
use crate::taken::Taken;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct ControlFigures {
    /// When, of what, and how busy the machine was.
    pub taken: Taken,
    /// How changes reach sidecars that all hold the whole of a mesh.
    pub changes: Changes,
    /// Sidecars that hold ten services each: what most meshes look like.
    pub on_demand: Vec<Crowd>,
    /// Sidecars that hold everything.
    pub everything: Vec<Crowd>,
    /// Envoys, which hold everything, routes of all services in one resource.
    pub envoys: Vec<Crowd>,
}

impl ControlFigures {
    /// Markdown.
    pub fn tables(&self) -> String {
        let mut text = String::new();
        let taken = &self.taken;
        let _ = writeln!(
            text,
            "Taken {} at {}, {} cores, load average {} before and {} after.\n",
            taken.date, taken.commit, taken.cores, taken.load_before, taken.load_after
        );
        let changes = &self.changes;
        let _ = writeln!(
            text,
            "{} sidecars that hold all of {} services, {} changes a round, medians of {} rounds:\n\n\
             | change | p50 ms | p99 ms | slowest ms | bytes per sidecar | of these the resource | services encoded | CPU ms, all sidecars |\n\
             |---|---|---|---|---|---|---|---|",
            changes.clients, changes.services, changes.changes, changes.edit.ms_p50.runs
        );
        row(&mut text, "a route in its file", &changes.edit);
        row(&mut text, "an endpoint announced or withdrawn", &changes.flap);
        let first = changes.edit.first_bytes_per_client.median / 1024.0;
        let _ = writeln!(text, "\nOne that comes gets {first:.0} KiB. Large meshes, measured once:\n");
        text += "| clients | services | held by each | RSS MiB before, with all, after the flapping | first push: s | CPU s | KiB per client | flap: pushes/s each | bytes each | KiB/s | CPU |\n\
                 |---|---|---|---|---|---|---|---|---|---|---|\n";
        let kinds = [("sidecars", &self.on_demand), ("sidecars", &self.everything), ("Envoys", &self.envoys)];
        for (kind, crowds) in kinds {
            crowds.iter().for_each(|crowd| large(&mut text, kind, crowd));
        }
        text
    }
}

fn row(text: &mut String, what: &str, figures: &ChangeFigures) {
    let _ = writeln!(
        text,
        "| {what} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} |",
        figures.ms_p50.median,
        figures.ms_p99.median,
        figures.ms_max.median,
        figures.bytes_per_client.median,
        figures.resource_bytes_per_client.median,
        figures.encoded_services.median,
        figures.cpu_ms.median,
    );
}

fn large(text: &mut String, kind: &str, crowd: &Crowd) {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let _ = writeln!(
        text,
        "| {} {kind} | {} | {} | {:.0}, {:.0}, {:.0} | {:.1} | {:.1} | {:.0} | {:.1} to {} | {:.0} | {:.0} | {:.0} % |",
        crowd.clients,
        crowd.services,
        crowd.held,
        mib(crowd.start_rss_bytes),
        mib(crowd.rss_bytes),
        mib(crowd.flap_rss_bytes),
        crowd.first_push_seconds,
        crowd.first_push_cpu_seconds,
        crowd.first_push_bytes_per_client / 1024.0,
        crowd.flap_pushes_per_second,
        crowd.flap_watchers,
        crowd.flap_bytes_per_push,
        crowd.flap_bytes_per_second / 1024.0,
        crowd.flap_cpu * 100.0,
    );
}
