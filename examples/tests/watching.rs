//! What a shopper does when a watch is cut, against an order service that cuts as it is told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use outrigger_examples::counts::{Count, Counts};
use outrigger_examples::pb::order_service_client::OrderServiceClient;
use outrigger_examples::pb::order_service_server::{OrderService, OrderServiceServer};
use outrigger_examples::pb::{
    CreateOrderRequest, ImportOrdersResponse, ImportedOrder, Order, OrderEvent, WatchOrderRequest,
};
use outrigger_examples::serve::serve;
use outrigger_examples::stop;
use outrigger_examples::targets::Targets;
use outrigger_examples::watching::{STREAMS_MAX, watch};
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};

type Events = Vec<Result<OrderEvent, Status>>;

/// Gives each stream what its turn has; the last turn comes again.
struct Scripted {
    turns: Vec<fn() -> Result<Events, Status>>,
    begun: AtomicUsize,
}

#[tonic::async_trait]
impl OrderService for Scripted {
    async fn create_order(&self, _: Request<CreateOrderRequest>) -> Result<Response<Order>, Status> {
        Err(Status::unimplemented("nothing but watches"))
    }

    async fn import_orders(
        &self,
        _: Request<Streaming<ImportedOrder>>,
    ) -> Result<Response<ImportOrdersResponse>, Status> {
        Err(Status::unimplemented("nothing but watches"))
    }

    type WatchOrderStream = tokio_stream::Iter<std::vec::IntoIter<Result<OrderEvent, Status>>>;

    async fn watch_order(
        &self,
        _: Request<Streaming<WatchOrderRequest>>,
    ) -> Result<Response<Self::WatchOrderStream>, Status> {
        let begun = self.begun.fetch_add(1, Ordering::Relaxed);
        let turn = self.turns[begun.min(self.turns.len() - 1)];
        turn().map(|events| Response::new(tokio_stream::iter(events)))
    }
}

fn event(status: &str) -> Result<OrderEvent, Status> {
    Ok(OrderEvent { order_id: "1".to_owned(), status: status.to_owned() })
}

fn cut() -> Result<Events, Status> {
    Ok(vec![event("created"), Err(Status::unavailable("cut"))])
}

fn whole() -> Result<Events, Status> {
    Ok(vec![event("created"), event("in transit"), event("delivered")])
}

fn refused() -> Result<Events, Status> {
    Err(Status::unavailable("refused"))
}

/// Watches one order of a service with these turns and returns the count.
async fn watched(turns: &[fn() -> Result<Events, Status>]) -> Count {
    let (stopper, stop) = stop::pair();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let scripted = Scripted { turns: turns.to_vec(), begun: AtomicUsize::new(0) };
    let serving = tokio::spawn(serve(listener, Routes::new(OrderServiceServer::new(scripted)), stop));
    let targets = Targets { mesh: Some(url), direct: BTreeMap::new() };
    let counts = Counts::default();
    let orders = OrderServiceClient::new(targets.channel("orders").expect("a channel"));
    watch(orders, counts.clone(), "1".to_owned()).await;
    stopper.stop();
    serving.await.expect("no panic").expect("a graceful end");
    counts.snapshot().into_values().next().expect("a count")
}

fn unavailable(count: u64) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([("Unavailable", count)])
}

#[tokio::test]
async fn a_watch_that_is_cut_is_taken_up_again_until_the_order_is_delivered() {
    let count = watched(&[cut, cut, whole]).await;
    assert_eq!((count.started, count.ok, count.open()), (3, 1, 0));
    assert_eq!((count.failed, count.cut), (unavailable(2), unavailable(2)));
}

#[tokio::test]
async fn a_watch_that_told_nothing_has_failed_and_is_not_begun_again() {
    let count = watched(&[cut, refused, whole]).await;
    assert_eq!((count.started, count.ok), (2, 0));
    assert_eq!((count.failed, count.cut), (unavailable(2), unavailable(1)));
}

#[tokio::test]
async fn a_watch_that_is_always_cut_has_failed_at_the_limit() {
    let count = watched(&[cut]).await;
    let limit = u64::try_from(STREAMS_MAX).expect("a small number");
    assert_eq!((count.started, count.ok), (limit, 0));
    assert_eq!((count.failed, count.cut), (unavailable(limit), unavailable(limit - 1)));
}
