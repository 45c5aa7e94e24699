//! Sets up what is recorded of calls, and sees that the last of it leaves.

use std::ffi::OsString;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use config::model::Sidecar;
use files::Reports;
use tokio::time::timeout;

use crate::control::access::AccessLog;
use crate::control::lookup::Lookups;
use crate::control::otlp::client::Client;
use crate::control::otlp::exporter::{Exporter, crowd};
use crate::control::otlp::settings::{self, Decided, Settings};
use crate::record::queue::{Outlet, queue};
use crate::record::{Fates, Lines, Recorder, Spans};
use crate::trace::context::Formats;
use crate::trace::sampling::Sampler;

/// How long what was recorded may take to leave when the sidecar goes.
const LAST: Duration = Duration::from_secs(2);

/// What was decided before anything is started.
pub(crate) struct Prepared {
    pub(crate) propagate: Formats,
    /// For the workers; `None`: nothing is recorded.
    pub(crate) recorder: Option<Recorder>,
    pub(crate) recording: Recording,
}

/// The readers of the queues, before they run.
#[derive(Default)]
pub(crate) struct Recording {
    fates: Arc<Fates>,
    spans: Option<(Settings, Client, Outlet)>,
    lines: Option<Outlet>,
    /// What people should know of the settings.
    notes: Vec<String>,
}

/// The readers of the queues.
pub(crate) struct Running {
    spans: Option<Exporter>,
    lines: Option<AccessLog>,
}

/// Reads what is to be recorded from the file and the variables `OTEL_*`.
pub(crate) fn prepare(
    sidecar: &Sidecar,
    lookups: &Lookups,
    env: impl Fn(&str) -> Option<OsString>,
) -> Result<Prepared, String> {
    let Decided { propagate, settings, notes } = settings::read(sidecar, env)?;
    let mut recording = Recording::default();
    let spans = match settings {
        None => None,
        Some(settings) => {
            let client = Client::new(&settings, lookups.clone())?;
            let sampler = Sampler::new(settings.parent, settings.ratio_ppm, settings.rate);
            let (queue, outlet) = queue(settings.bound, crowd(&settings));
            recording.spans = Some((settings, client, outlet));
            Some(Spans { sampler, queue })
        }
    };
    let lines = sidecar.access_log.map(|log| {
        let bound = sidecar.limits.log_lines;
        let (queue, outlet) = queue(bound, bound.div_ceil(2));
        recording.lines = Some(outlet);
        Lines { sample_ppm: log.sample_ppm, streams: log.streams, queue }
    });
    let recorder = (spans.is_some() || lines.is_some()).then(|| Recorder {
        spans,
        lines,
        fates: recording.fates.clone(),
    });
    recording.notes = notes;
    Ok(Prepared { propagate, recorder, recording })
}

impl Recording {
    /// Begins to read; on the control thread's runtime. Lines go to `out`, words about it to `reports`.
    pub(crate) fn start(
        self,
        out: impl Write + Send + 'static,
        reports: Reports,
    ) -> std::io::Result<Running> {
        let Self { fates, spans, lines, notes } = self;
        for note in notes {
            reports.say(note);
        }
        let lines = lines.map(|outlet| AccessLog::start(outlet, fates.clone(), out)).transpose()?;
        let spans =
            spans.map(|(settings, client, outlet)| Exporter::start(settings, client, outlet, fates, reports));
        Ok(Running { spans, lines })
    }
}

impl Running {
    /// Lets what still waits leave, for two seconds at most. Nothing may be recorded any more.
    pub(crate) async fn finish(self) {
        let lines = async {
            if let Some(lines) = self.lines {
                lines.finish().await;
            }
        };
        let spans = async {
            if let Some(spans) = self.spans {
                spans.finish().await;
            }
        };
        let _ = timeout(LAST, async { tokio::join!(lines, spans) }).await;
    }
}
