//! `shop.StorefrontService`: the shoppers' own view of the store.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::counts::Counts;
use crate::pb::storefront_service_server::StorefrontService;
use crate::pb::{CallCount, TallyRequest, TallyResponse};
use crate::stop::Stop;

/// How often a tally is told.
pub const TALLY_PERIOD: Duration = Duration::from_secs(1);

/// Tells what the shoppers have counted.
#[derive(Debug)]
pub struct Storefront {
    counts: Counts,
    stop: Stop,
}

impl Storefront {
    /// Tells `counts` until `stop`.
    pub fn new(counts: Counts, stop: Stop) -> Self {
        Self { counts, stop }
    }
}

#[tonic::async_trait]
impl StorefrontService for Storefront {
    type TallyStream = ReceiverStream<Result<TallyResponse, Status>>;

    async fn tally(&self, _request: Request<TallyRequest>) -> Result<Response<Self::TallyStream>, Status> {
        let (tallies, told) = mpsc::channel(1);
        let (counts, stop) = (self.counts.clone(), self.stop.clone());
        // It ends with the stream: `send` fails once the call is gone.
        tokio::spawn(async move {
            let mut period = interval(TALLY_PERIOD);
            period.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let tally = tokio::select! {
                    _ = period.tick() => Ok(tally(&counts)),
                    () = tallies.closed() => return,
                    () = stop.requested() => Err(Status::unavailable("the storefront is stopping")),
                };
                let last = tally.is_err();
                if tallies.send(tally).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }
}

fn tally(counts: &Counts) -> TallyResponse {
    let calls = counts.snapshot().into_iter().map(|((service, method), count)| CallCount {
        service,
        method: method.to_owned(),
        started: count.started,
        ok: count.ok,
        open: count.open(),
        failed: count.failed.into_iter().map(|(code, n)| (code.to_owned(), n)).collect(),
    });
    TallyResponse { calls: calls.collect() }
}
