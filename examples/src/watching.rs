//! Watching an order arrive, over as many streams as it takes: a stream that was cut in the middle is taken up by the
//! app again, because nobody else knows how it goes on.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use crate::counts::Counts;
use crate::delivery::DELIVERED;
use crate::pb::WatchOrderRequest;
use crate::pb::order_service_client::OrderServiceClient;

/// Streams for one order, the first one counted.
pub const STREAMS_MAX: usize = 5;

/// Follows one order until it is delivered. A stream that fails before it has told anything is counted, and so is the last
/// one that is cut; that is all a shopper can do about it.
pub async fn watch(mut orders: OrderServiceClient<Channel>, counts: Counts, order_id: String) {
    for number in 1..=STREAMS_MAX {
        let call = counts.start("orders", "shop.OrderService/WatchOrder");
        let mut told = false;
        match stream(&mut orders, &order_id, &mut told).await {
            Err(status) if told && number < STREAMS_MAX => call.cut(&status),
            outcome => return drop(call.end(outcome)),
        }
    }
}

/// One stream, whose sending side is closed once the order is delivered; `told` says whether an event came.
async fn stream(
    orders: &mut OrderServiceClient<Channel>,
    order_id: &str,
    told: &mut bool,
) -> Result<(), Status> {
    let (asking, asked) = mpsc::channel(1);
    // The channel is new and empty, so it takes this.
    let _ = asking.try_send(WatchOrderRequest { order_id: order_id.to_owned() });
    let mut asking = Some(asking);
    let mut is_delivered = false;
    let mut events = orders.watch_order(ReceiverStream::new(asked)).await?.into_inner();
    while let Some(event) = events.message().await? {
        *told = true;
        if event.status == DELIVERED {
            is_delivered = true;
            drop(asking.take());
        }
    }
    match is_delivered {
        true => Ok(()),
        false => Err(Status::data_loss("the watch ended well before the order was delivered")),
    }
}
