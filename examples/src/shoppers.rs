//! Shoppers: they register, browse, order, watch their orders arrive, and now and then import a pile of
//! orders, at a steady rate whatever the answers are. Nothing is retried, so that every failure counts. A watch
//! that is cut after it has told something is taken up again, as an app must: nobody else knows how.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tonic::Status;
use tonic::transport::Channel;

use crate::counts::Counts;
use crate::deadline::{request, within};
use crate::pb::order_service_client::OrderServiceClient;
use crate::pb::product_service_client::ProductServiceClient;
use crate::pb::user_service_client::UserServiceClient;
use crate::pb::{
    CreateOrderRequest, GetProductRequest, ImportedOrder, ListProductsRequest, RegisterRequest, UserRequest,
};
use crate::products::products_total;
use crate::stop::Stop;
use crate::targets::Targets;
use crate::watching::watch;

/// How long open calls may go on after the stop; what is open then counts as cancelled.
pub const FINISH_WAIT: Duration = Duration::from_secs(10);

/// Orders that one shopper watches at a time; further ones arrive unseen.
pub const WATCHES_MAX: usize = 4;

/// Orders in one import.
const IMPORTED: i32 = 5;

/// One visit in this many ends with an import.
const VISITS_PER_IMPORT: u64 = 4;

/// How many shop, and how much.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// How many shop at once; at least 1.
    pub shoppers: usize,
    /// Calls that all of them together start per second, watches aside; above 0.
    pub calls_per_second: f64,
    /// How long a call may take, watches aside; `None`: for ever.
    pub deadline: Option<Duration>,
}

/// Shops until `stop`, lets open calls finish, and returns when all have ended or [`FINISH_WAIT`] is over.
///
/// # Errors
/// When a target has no usable address. Failed calls are no errors: they are in `counts`.
pub async fn shop(plan: Plan, targets: &Targets, counts: &Counts, stop: &Stop) -> Result<(), String> {
    let stores = Stores {
        users: UserServiceClient::new(targets.channel("users")?),
        products: ProductServiceClient::new(targets.channel("products")?),
        orders: OrderServiceClient::new(targets.channel("orders")?),
        deadline: plan.deadline,
        counts: counts.clone(),
    };
    let shoppers = u32::try_from(plan.shoppers).unwrap_or(u32::MAX).max(1);
    let between_calls = Duration::from_secs_f64(f64::from(shoppers) / plan.calls_per_second);
    let mut shopping = JoinSet::new();
    for number in 0..shoppers {
        // Spread over one period, so that they do not all call in the same instant.
        let first_call = Instant::now() + between_calls * number / shoppers;
        let mut pace = interval_at(first_call, between_calls.max(Duration::from_millis(1)));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = stop.clone();
        let shopper =
            Shopper { stores: stores.clone(), number, visits: 0, pace, stop, watches: JoinSet::new() };
        shopping.spawn(shopper.shop());
    }
    stop.requested().await;
    let finished = timeout(FINISH_WAIT, async { while shopping.join_next().await.is_some() {} }).await;
    if finished.is_err() {
        // Dropping the calls cancels them, and they count as such.
        shopping.shutdown().await;
    }
    Ok(())
}

#[derive(Clone)]
struct Stores {
    users: UserServiceClient<Channel>,
    products: ProductServiceClient<Channel>,
    orders: OrderServiceClient<Channel>,
    deadline: Option<Duration>,
    counts: Counts,
}

struct Shopper {
    stores: Stores,
    number: u32,
    visits: u64,
    pace: Interval,
    stop: Stop,
    watches: JoinSet<()>,
}

/// Why a visit ended before its end.
enum Over {
    /// The store closes: no further call.
    Stopping,
    /// A call failed, which is counted already; the next visit starts afresh.
    Failed,
}

impl From<Status> for Over {
    fn from(_: Status) -> Self {
        Self::Failed
    }
}

impl Shopper {
    async fn shop(mut self) {
        loop {
            self.visits += 1;
            if let Err(Over::Stopping) = self.visit().await {
                break;
            }
            while self.watches.try_join_next().is_some() {}
        }
        while self.watches.join_next().await.is_some() {}
    }

    async fn visit(&mut self) -> Result<(), Over> {
        let user_id = self.register().await?;
        self.look_at_oneself(user_id).await?;
        self.browse().await?;
        let price_cents = self.look_at_product().await?;
        let order_id = self.order(user_id, price_cents).await?;
        if self.watches.len() < WATCHES_MAX {
            // It goes on through the next visits.
            let (orders, counts) = (self.stores.orders.clone(), self.stores.counts.clone());
            self.watches.spawn(watch(orders, counts, order_id));
        }
        if self.visits.is_multiple_of(VISITS_PER_IMPORT) {
            self.import(user_id, price_cents).await?;
        }
        Ok(())
    }

    /// Waits until the next call is due.
    async fn turn(&mut self) -> Result<(), Over> {
        tokio::select! {
            biased;
            () = self.stop.requested() => Err(Over::Stopping),
            _ = self.pace.tick() => Ok(()),
        }
    }

    async fn register(&mut self) -> Result<i32, Over> {
        self.turn().await?;
        let name = format!("shopper {}", self.number);
        let email = format!("shopper-{}@example.com", self.number);
        let call = self.stores.counts.start("users", "shop.UserService/Register");
        let deadline = self.stores.deadline;
        let asked = self.stores.users.register(request(RegisterRequest { name, email }, deadline));
        let answer = call.end(within(deadline, asked).await)?;
        Ok(answer.into_inner().id)
    }

    async fn look_at_oneself(&mut self, id: i32) -> Result<(), Over> {
        self.turn().await?;
        let call = self.stores.counts.start("users", "shop.UserService/GetUser");
        let deadline = self.stores.deadline;
        let asked = self.stores.users.get_user(request(UserRequest { id }, deadline));
        call.end(within(deadline, asked).await)?;
        Ok(())
    }

    async fn browse(&mut self) -> Result<(), Over> {
        self.turn().await?;
        let call = self.stores.counts.start("products", "shop.ProductService/ListProducts");
        let deadline = self.stores.deadline;
        let listing = async {
            let all = request(ListProductsRequest { contains: String::new() }, deadline);
            let mut products = self.stores.products.list_products(all).await?.into_inner();
            while products.message().await?.is_some() {}
            Ok(())
        };
        call.end(within(deadline, listing).await)?;
        Ok(())
    }

    async fn look_at_product(&mut self) -> Result<i64, Over> {
        self.turn().await?;
        let shelf = i64::from(products_total());
        let id = (i64::from(self.number) + self.visits.cast_signed()) % shelf + 1;
        let id = i32::try_from(id).expect("ids are as small as the catalogue");
        let call = self.stores.counts.start("products", "shop.ProductService/GetProduct");
        let deadline = self.stores.deadline;
        let asked = self.stores.products.get_product(request(GetProductRequest { id }, deadline));
        let product = call.end(within(deadline, asked).await)?;
        Ok(product.into_inner().price_cents)
    }

    async fn order(&mut self, user_id: i32, amount_cents: i64) -> Result<String, Over> {
        self.turn().await?;
        let idempotency_key = format!("shopper-{}-visit-{}", self.number, self.visits);
        let order = CreateOrderRequest { user_id, product_id: 1, amount_cents, idempotency_key };
        let call = self.stores.counts.start("orders", "shop.OrderService/CreateOrder");
        let deadline = self.stores.deadline;
        let asked = self.stores.orders.create_order(request(order, deadline));
        let order = call.end(within(deadline, asked).await)?;
        Ok(order.into_inner().id)
    }

    async fn import(&mut self, user_id: i32, amount_cents: i64) -> Result<(), Over> {
        self.turn().await?;
        let orders = (0..IMPORTED).map(move |_| ImportedOrder { user_id, amount_cents });
        let call = self.stores.counts.start("orders", "shop.OrderService/ImportOrders");
        let deadline = self.stores.deadline;
        let asked = self.stores.orders.import_orders(request(tokio_stream::iter(orders), deadline));
        call.end(within(deadline, asked).await)?;
        Ok(())
    }
}
