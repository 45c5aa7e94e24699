//! `shop.OrderService`: creates orders (charging through payments), imports them, and tells how they fare.

use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::counts::Counts;
use crate::deadline::{request as with_deadline, within};
use crate::delivery::{Tracked, order_id};
use crate::pb::order_service_server::OrderService;
use crate::pb::payment_service_client::PaymentServiceClient;
use crate::pb::{
    ChargeRequest, CreateOrderRequest, ImportOrdersResponse, ImportedOrder, Order, OrderEvent,
    WatchOrderRequest,
};
use crate::stop::Stop;

/// Orders that one `WatchOrder` stream may follow at a time.
pub const WATCHED_MAX: usize = 100;

/// Orders that one `ImportOrders` call may bring.
pub const IMPORTED_MAX: i64 = 1_000_000;

/// Events that wait for a slow watcher; past it the stream waits for the reader.
const EVENTS_WAITING_MAX: usize = 16;

/// The order service. It keeps no orders: see [`crate::delivery`].
#[derive(Debug)]
pub struct Orders {
    payments: PaymentServiceClient<Channel>,
    deadline: Option<Duration>,
    counts: Counts,
    stop: Stop,
    created: AtomicU64,
}

impl Orders {
    /// Charges through `payments` within `deadline`, counts those calls in `counts`, and ends its streams on
    /// `stop`.
    pub fn new(payments: Channel, deadline: Option<Duration>, counts: Counts, stop: Stop) -> Self {
        let payments = PaymentServiceClient::new(payments);
        Self { payments, deadline, counts, stop, created: AtomicU64::new(0) }
    }
}

#[tonic::async_trait]
impl OrderService for Orders {
    async fn create_order(&self, request: Request<CreateOrderRequest>) -> Result<Response<Order>, Status> {
        let order = request.into_inner();
        let charge = ChargeRequest {
            idempotency_key: order.idempotency_key,
            user_id: order.user_id,
            amount_cents: order.amount_cents,
        };
        let call = self.counts.start("payments", "shop.PaymentService/Charge");
        let mut payments = self.payments.clone();
        let charge = payments.charge(with_deadline(charge, self.deadline));
        let charged = call.end(within(self.deadline, charge).await)?.into_inner();
        let number = self.created.fetch_add(1, Ordering::Relaxed);
        let id = order_id(since_epoch(), process::id(), number);
        Ok(Response::new(Order { id, charge_id: charged.charge_id }))
    }

    async fn import_orders(
        &self,
        request: Request<Streaming<ImportedOrder>>,
    ) -> Result<Response<ImportOrdersResponse>, Status> {
        let mut orders = request.into_inner();
        let mut answer = ImportOrdersResponse::default();
        loop {
            let order = tokio::select! {
                order = orders.message() => order?,
                () = self.stop.requested() => return Err(stopping()),
            };
            let Some(order) = order else { return Ok(Response::new(answer)) };
            if answer.imported == IMPORTED_MAX {
                return Err(Status::resource_exhausted(format!(
                    "more than {IMPORTED_MAX} orders in one call"
                )));
            }
            answer.imported += 1;
            answer.total_cents = answer.total_cents.saturating_add(order.amount_cents);
        }
    }

    type WatchOrderStream = ReceiverStream<Result<OrderEvent, Status>>;

    async fn watch_order(
        &self,
        request: Request<Streaming<WatchOrderRequest>>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let (events, told) = mpsc::channel(EVENTS_WAITING_MAX);
        let stop = self.stop.clone();
        // It ends with the stream: `events` is closed when the call is gone.
        tokio::spawn(async move {
            if let Err(status) = watch(request.into_inner(), &events, &stop).await {
                // Nobody is left to tell when this fails.
                let _ = events.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(told)))
    }
}

/// Tells the events of every order that `asked` names, until all are told and no more can be asked for.
async fn watch(
    mut asked: Streaming<WatchOrderRequest>,
    events: &mpsc::Sender<Result<OrderEvent, Status>>,
    stop: &Stop,
) -> Result<(), Status> {
    let mut watched: Vec<Tracked> = Vec::new();
    let mut asking = true;
    while asking || !watched.is_empty() {
        let now = since_epoch();
        let next_in = watched.iter().filter_map(|order| order.next_in(now)).min();
        tokio::select! {
            request = asked.message(), if asking && watched.len() < WATCHED_MAX => match request? {
                Some(request) => {
                    let order = Tracked::new(request.order_id, since_epoch());
                    watched.push(order.map_err(Status::invalid_argument)?);
                }
                None => asking = false,
            },
            () = tokio::time::sleep(next_in.unwrap_or_default()), if next_in.is_some() => {
                tell(&mut watched, events).await;
            }
            () = events.closed() => return Ok(()),
            () = stop.requested() => return Err(stopping()),
        }
    }
    Ok(())
}

/// Sends every event that has happened and forgets the orders that are delivered.
async fn tell(watched: &mut Vec<Tracked>, events: &mpsc::Sender<Result<OrderEvent, Status>>) {
    let now = since_epoch();
    for order in watched.iter_mut() {
        while let Some(status) = order.take(now) {
            let event = OrderEvent { order_id: order.order_id().to_owned(), status: status.to_owned() };
            if events.send(Ok(event)).await.is_err() {
                return;
            }
        }
    }
    watched.retain(|order| order.next_in(now).is_some());
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn stopping() -> Status {
    Status::unavailable("this replica of orders is stopping")
}
