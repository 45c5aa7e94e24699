//! Files that are looked at again and again: which of them have changed, and stand still.
//!
//! ```text
//! stamps differ -> two equal looks -> read; what was read as late as it was written is read once more
//! a fault -> the same for as long as the patience -> told
//! ```

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use files::{Patience, Stamp, stamps};
use tokio::time::{Instant, sleep};

use crate::control::journal::{Journal, Source};

/// A file that is being written is given this long until the next look, and this many looks.
const SETTLE: Duration = Duration::from_millis(20);
const SETTLE_LOOKS: usize = 10;
/// When what is not settled yet is looked at again.
const AGAIN: Duration = Duration::from_millis(100);
/// How long a fault must stay before it is told: files that belong together are often written one by one.
const MESH_PATIENCE: Duration = Duration::from_millis(250);
const IDENTITY_PATIENCE: Duration = Duration::from_secs(1);

/// A source and what was last seen of it.
pub(crate) struct Followed {
    pub(crate) source: Source,
    pub(crate) files: Vec<PathBuf>,
    /// The stamps of what was read last; `None`: it is read at the next look, whatever they are.
    pub(crate) seen: Option<Vec<Option<Stamp>>>,
    /// When it must be looked at again.
    pub(crate) again: Option<Instant>,
    /// With what is wrong with it.
    pub(crate) patience: Patience,
    /// Read at the next look, and faults told at once and again.
    pub(crate) forced: bool,
}

impl Followed {
    /// What the journal says of its files.
    pub(crate) fn new(source: Source, journal: &Journal) -> Self {
        let files = journal.paths(source);
        // Not taken for seen: they may have changed between the start and now.
        let patience = Patience::new(match source {
            Source::Mesh => MESH_PATIENCE,
            Source::Identity => IDENTITY_PATIENCE,
        });
        Self { source, files, seen: None, again: None, patience, forced: false }
    }

    /// What people call it.
    pub(crate) fn name(&self) -> String {
        match &self.files[..] {
            [one] => one.display().to_string(),
            files => {
                let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
                format!("the identity ({})", names.join(", "))
            }
        }
    }

    /// The stamps of files that have changed, once they stand still; and whether the look was forced.
    pub(crate) async fn changed(&mut self) -> Option<(Vec<Option<Stamp>>, bool)> {
        let forced = std::mem::take(&mut self.forced);
        let mut now = stamps(&self.files).await;
        if self.seen.as_ref() == Some(&now) && !forced {
            return None;
        }
        for _ in 0..SETTLE_LOOKS {
            sleep(SETTLE).await;
            let before = std::mem::replace(&mut now, stamps(&self.files).await);
            if before == now {
                break;
            }
        }
        Some((now, forced))
    }

    /// Notes that files with these stamps were read, beginning at `read`.
    pub(crate) fn note(&mut self, stamps: Vec<Option<Stamp>>, read: SystemTime) {
        let settled = stamps.iter().flatten().all(|stamp| stamp.is_settled(read));
        self.seen = Some(stamps);
        if !settled {
            self.look_again();
        }
    }

    /// Has it looked at again soon.
    pub(crate) fn look_again(&mut self) {
        self.seen = None;
        self.again = Some(Instant::now() + AGAIN);
    }
}
