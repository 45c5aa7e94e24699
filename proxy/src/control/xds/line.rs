//! A connection with its stream, and the second one that takes its place when our certificate is renewed.
//!
//! ```text
//! credentials change -> a moment, not all sidecars at once -> second line opened -> asked over it -> answered: the first goes
//!                              ^--------- a minute -------------'  in vain
//! ```
//!
//! The first one goes on meanwhile: a control plane may end a connection when the certificate expires that it was shown.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::control::xds::connect::{Open, Way};
use crate::control::xds::lost::{Lost, Reason};
use crate::control::xds::patience::Patience;
use crate::control::xds::settings::{Address, Protocol};
use crate::control::xds::stream::{Incoming, Outgoing, begin};
use crate::tls::credentials::Credentials;

/// After a second line that could not be opened.
const AGAIN: Duration = Duration::from_secs(60);

/// For so long an older line stays when the second one says nothing, as where nothing has changed.
pub(crate) const BOTH_LINES: Duration = Duration::from_secs(5);

/// A connection and the one stream on it; closed when dropped.
pub(crate) struct Line {
    pub(crate) open: Open,
    pub(crate) outgoing: Outgoing,
    pub(crate) incoming: Incoming,
}

impl Line {
    /// Opens one.
    pub(crate) async fn open(
        way: Arc<Way>,
        to: Address,
        protocol: Protocol,
        patience: Patience,
    ) -> Result<Self, Lost> {
        let open = way.open(&to).await?;
        let Patience { bounds, first_answer, .. } = patience;
        let begun = timeout(first_answer, begin(&open, &to, protocol, bounds)).await;
        let hung = || Lost::new(Reason::Hung, format!("it does not answer within {first_answer:?}"));
        let (outgoing, incoming) = begun.unwrap_or_else(|_| Err(hung()))?;
        Ok(Self { open, outgoing, incoming })
    }
}

/// A line that is being opened.
type Opening = Pin<Box<dyn Future<Output = Result<Line, Lost>> + Send>>;

/// Opens a second line when it is time to.
pub(crate) struct Renewal {
    way: Arc<Way>,
    to: Address,
    protocol: Protocol,
    patience: Patience,
    credentials: watch::Receiver<Option<Arc<Credentials>>>,
    /// When the next one is opened.
    due: Option<Instant>,
    opening: Option<Opening>,
}

impl Renewal {
    /// Of a line that is opened after this.
    pub(crate) fn new(way: Arc<Way>, to: Address, protocol: Protocol, patience: Patience) -> Self {
        let mut credentials = way.credentials.clone();
        credentials.mark_unchanged();
        Self { way, to, protocol, patience, credentials, due: None, opening: None }
    }

    /// The second line came to nothing: another one is opened in a while.
    pub(crate) fn again(&mut self) {
        self.due = Some(Instant::now() + AGAIN);
    }

    /// Waits until a second line is open. It may be cancelled and begun anew.
    pub(crate) async fn line(&mut self) -> Line {
        if !self.to.tls {
            return pending().await;
        }
        loop {
            if let Some(opening) = &mut self.opening {
                let opened = opening.await;
                self.opening = None;
                match opened {
                    Ok(line) => return line,
                    // The first one goes on; if it cannot, that ends as any other.
                    Err(_) => self.again(),
                }
            }
            let due = self.due;
            let due = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                changed = self.credentials.changed() => match changed {
                    Ok(()) => self.due = Some(Instant::now() + self.patience.spread.mul_f64(fastrand::f64())),
                    Err(_) => return pending().await,
                },
                () = due => {
                    self.due = None;
                    let (way, to) = (self.way.clone(), self.to.clone());
                    self.opening = Some(Box::pin(Line::open(way, to, self.protocol, self.patience)));
                }
            }
        }
    }
}
