//! Hints that files may have changed, from inotify. Only hints: what has changed is found by a look.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use futures_core::Stream as _;
use inotify::{EventStream, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::task::spawn_blocking;

use crate::report::Reports;

/// How often whoever watches files looks at them without a hint: file systems of networks give none.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What happens in a folder when a file of it is replaced, written, linked elsewhere or taken away.
const EVENTS: WatchMask = WatchMask::CLOSE_WRITE
    .union(WatchMask::CREATE)
    .union(WatchMask::MOVE)
    .union(WatchMask::DELETE)
    .union(WatchMask::ATTRIB)
    .union(WatchMask::DELETE_SELF)
    .union(WatchMask::MOVE_SELF)
    .union(WatchMask::ONLYDIR);
/// Bytes of events that are taken at a time; what they say does not matter.
const BUFFER_BYTES: usize = 4_096;
/// Events that make one hint; where more is happening, the next hint comes at once.
const EVENTS_MAX: usize = 1_024;

/// The folders that are watched.
pub struct Watch {
    /// `None`: the system had no inotify instance left, and no hint ever comes.
    events: Option<EventStream<[u8; BUFFER_BYTES]>>,
    folders: BTreeMap<PathBuf, WatchDescriptor>,
}

impl Watch {
    /// Watches nothing yet. Where the system has no inotify instance left it says so, and looks every [`LOOK_EVERY`] must do.
    pub fn start(reports: &Reports) -> Self {
        let events = Inotify::init().and_then(|inotify| inotify.into_event_stream([0; BUFFER_BYTES]));
        let events = events.inspect_err(|error| {
            let every = LOOK_EVERY.as_secs();
            reports.say(format!("inotify: {error}; changed files are seen within {every} s"));
        });
        Self { events: events.ok(), folders: BTreeMap::new() }
    }

    /// Watches, from now on, these folders and where each stands (it may be a symbolic link that is swapped), and the folders of
    /// the files and of what they lead to. Done anew at each look, because all of these may come, go and be other ones.
    pub async fn cover(&mut self, folders: Vec<PathBuf>, files: Vec<PathBuf>) {
        let Some(events) = &self.events else { return };
        let (watches, watched) = (events.watches(), std::mem::take(&mut self.folders));
        // A disk may not answer, and probes must not wait for it.
        self.folders =
            spawn_blocking(move || cover(watches, watched, &folders, &files)).await.unwrap_or_default();
    }

    /// Waits until something has happened in one of the folders.
    pub async fn hint(&mut self) {
        poll_fn(|cx| {
            let Some(events) = &mut self.events else { return Poll::Pending };
            let mut seen = false;
            for _ in 0..EVENTS_MAX {
                match Pin::new(&mut *events).poll_next(cx) {
                    Poll::Ready(Some(Ok(_))) => seen = true,
                    // It does not come back; slow looks must do then.
                    Poll::Ready(_) | Poll::Pending => break,
                }
            }
            if seen { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Adds and removes watches until they are those that are wanted; what is watched then.
fn cover(
    mut watches: Watches,
    mut watched: BTreeMap<PathBuf, WatchDescriptor>,
    folders: &[PathBuf],
    files: &[PathBuf],
) -> BTreeMap<PathBuf, WatchDescriptor> {
    let mut wanted: BTreeSet<PathBuf> = folders.iter().cloned().collect();
    wanted.extend(folders.iter().filter_map(|folder| parent(folder)));
    for file in files {
        wanted.extend(parent(file));
        wanted.extend(std::fs::canonicalize(file).ok().as_deref().and_then(parent));
    }
    let mut now = BTreeMap::new();
    for folder in wanted {
        // The same folder gives the same descriptor; one that is not there is seen when it comes, by a slow look.
        if let Ok(descriptor) = watches.add(&folder, EVENTS) {
            now.insert(folder, descriptor);
        }
    }
    // By descriptor: a name that leads elsewhere now has a new one, and two names may share one.
    let kept: Vec<&WatchDescriptor> = now.values().collect();
    watched.retain(|_, descriptor| !kept.contains(&&*descriptor));
    for descriptor in watched.into_values() {
        // It fails for a folder that is gone, whose watch went with it.
        let _ = watches.remove(descriptor);
    }
    now
}

fn parent(path: &Path) -> Option<PathBuf> {
    let folder = path.parent()?;
    // The parent of a bare name is empty.
    Some(if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() })
}
