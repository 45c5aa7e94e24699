//! The store without any mesh: every service, every kind of call, and an exact account of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use outrigger_examples::app::routes;
use outrigger_examples::arguments::{App, Arguments};
use outrigger_examples::counts::Counts;
use outrigger_examples::pb::health::HealthCheckRequest;
use outrigger_examples::pb::health::health_check_response::ServingStatus;
use outrigger_examples::pb::health::health_client::HealthClient;
use outrigger_examples::pb::order_service_client::OrderServiceClient;
use outrigger_examples::pb::payment_service_client::PaymentServiceClient;
use outrigger_examples::pb::product_service_client::ProductServiceClient;
use outrigger_examples::pb::storefront_service_client::StorefrontServiceClient;
use outrigger_examples::pb::user_service_client::UserServiceClient;
use outrigger_examples::pb::{
    ChargeRequest, CreateOrderRequest, GetProductRequest, ImportedOrder, ListProductsRequest,
    RegisterRequest, TallyRequest, UserRequest, WatchOrderRequest,
};
use outrigger_examples::serve::serve;
use outrigger_examples::shoppers::{Plan, shop};
use outrigger_examples::stop::{self, Stop, Stopper};
use outrigger_examples::targets::Targets;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::Code;

struct Store {
    targets: Targets,
    stopper: Stopper,
    stop: Stop,
    /// What orders counted of its calls to payments.
    charges: Counts,
    serving: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Store {
    async fn open() -> Self {
        let (stopper, stop) = stop::pair();
        let (targets, charges) = (Targets::default(), Counts::default());
        let mut store = Self { targets, stopper, stop, charges, serving: Vec::new() };
        // Payments first: orders must know where it is.
        for app in [App::Users, App::Products, App::Payments, App::Orders, App::Storefront] {
            let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
            let url = format!("http://{}", listener.local_addr().expect("an address"));
            let routes =
                routes(&arguments(app, &store.targets), &store.charges, &store.stop).expect("routes");
            store.targets.direct.insert(app.name().to_owned(), url);
            store.serving.push(tokio::spawn(serve(listener, routes, store.stop.clone())));
        }
        store
    }

    fn channel(&self, service: &str) -> tonic::transport::Channel {
        self.targets.channel(service).expect("a channel")
    }

    /// Stops every app and sees each end by itself.
    async fn close(self) {
        self.stopper.stop();
        for serving in self.serving {
            serving.await.expect("no panic").expect("a graceful end");
        }
    }
}

fn arguments(app: App, targets: &Targets) -> Arguments {
    let arguments = Arguments::parse([app.name().to_owned()].into_iter()).expect("an app");
    Arguments { targets: targets.clone(), ..arguments }
}

fn new_order(key: &str) -> CreateOrderRequest {
    CreateOrderRequest { user_id: 1, product_id: 1, amount_cents: 500, idempotency_key: key.to_owned() }
}

#[tokio::test]
async fn a_user_who_registers_is_found_and_keeps_the_id() {
    let store = Store::open().await;
    let mut users = UserServiceClient::new(store.channel("users"));
    let ada = RegisterRequest { name: "Ada".to_owned(), email: "ada@example.com".to_owned() };
    let id = users.register(ada.clone()).await.expect("an id").into_inner().id;
    assert_eq!(users.register(ada.clone()).await.expect("an id").into_inner().id, id);
    let found = users.get_user(UserRequest { id }).await.expect("a user").into_inner();
    assert_eq!((found.name, found.email), (ada.name, ada.email));
    for id in [id + 1, 0, -1] {
        assert_eq!(users.get_user(UserRequest { id }).await.expect_err("nobody").code(), Code::NotFound);
    }
    store.close().await;
}

#[tokio::test]
async fn the_catalogue_streams_and_every_product_of_it_is_found() {
    let store = Store::open().await;
    let mut products = ProductServiceClient::new(store.channel("products"));
    let request = ListProductsRequest { contains: "rope".to_owned() };
    let mut listed = products.list_products(request).await.expect("a stream").into_inner();
    let rope = listed.message().await.expect("a message").expect("a rope");
    assert_eq!(listed.message().await.expect("the end"), None);
    let found =
        products.get_product(GetProductRequest { id: rope.id }).await.expect("a product").into_inner();
    assert_eq!(found, rope);
    let nothing = products.get_product(GetProductRequest { id: 99 }).await.expect_err("no product");
    assert_eq!(nothing.code(), Code::NotFound);
    store.close().await;
}

#[tokio::test]
async fn an_order_is_charged_once_however_often_it_is_sent() {
    let store = Store::open().await;
    let mut orders = OrderServiceClient::new(store.channel("orders"));
    let first = orders.create_order(new_order("a")).await.expect("an order").into_inner();
    let again = orders.create_order(new_order("a")).await.expect("an order").into_inner();
    let other = orders.create_order(new_order("b")).await.expect("an order").into_inner();
    assert_eq!(first.charge_id, again.charge_id);
    assert_ne!(first.charge_id, other.charge_id);

    let mut payments = PaymentServiceClient::new(store.channel("payments"));
    let charge = ChargeRequest { idempotency_key: "a".to_owned(), user_id: 1, amount_cents: 900 };
    let charged = payments.charge(charge).await.expect("the first answer").into_inner();
    assert_eq!((charged.charge_id, charged.amount_cents), (first.charge_id, 500));
    store.close().await;
}

#[tokio::test]
async fn a_refused_charge_fails_the_order_with_the_same_code_and_is_counted() {
    let store = Store::open().await;
    let mut orders = OrderServiceClient::new(store.channel("orders"));
    let refused = orders.create_order(new_order("")).await.expect_err("no key");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let charges = store.charges.snapshot();
    let count = &charges[&("payments.shop".to_owned(), "shop.PaymentService/Charge")];
    let failed = BTreeMap::from([("InvalidArgument", 1)]);
    assert_eq!((count.started, count.ok, &count.failed, &count.cut), (1, 0, &failed, &BTreeMap::new()));
    store.close().await;
}

#[tokio::test]
async fn imported_orders_are_added_up() {
    let store = Store::open().await;
    let mut orders = OrderServiceClient::new(store.channel("orders"));
    let pile = tokio_stream::iter((1..=100).map(|n| ImportedOrder { user_id: n, amount_cents: 10 }));
    let imported = orders.import_orders(pile).await.expect("an answer").into_inner();
    assert_eq!((imported.imported, imported.total_cents), (100, 1_000));
    store.close().await;
}

#[tokio::test]
async fn a_watched_order_tells_every_event_and_the_stream_ends_after_the_client_has() {
    let store = Store::open().await;
    let mut orders = OrderServiceClient::new(store.channel("orders"));
    let order_id = orders.create_order(new_order("a")).await.expect("an order").into_inner().id;
    let (asking, asked) = tokio::sync::mpsc::channel(1);
    asking.send(WatchOrderRequest { order_id }).await.expect("room");
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut events = orders.watch_order(asked).await.expect("a stream").into_inner();
    for status in ["created", "in transit", "delivered"] {
        let event = events.message().await.expect("a message").expect("an event");
        assert_eq!(event.status, status);
    }
    drop(asking);
    assert_eq!(events.message().await.expect("the end"), None);
    store.close().await;
}

#[tokio::test]
async fn every_app_says_that_it_serves_and_only_for_what_it_serves() {
    let store = Store::open().await;
    for (app, service) in [("payments", "shop.PaymentService"), ("orders", "shop.OrderService")] {
        let mut health = HealthClient::new(store.channel(app));
        for asked in ["", service] {
            let request = HealthCheckRequest { service: asked.to_owned() };
            let answer = health.check(request).await.expect("an answer").into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{app}: `{asked}`");
        }
        let other = HealthCheckRequest { service: "shop.ShoeService".to_owned() };
        assert_eq!(health.check(other).await.expect_err("no shoes").code(), Code::NotFound);
    }
    store.close().await;
}

#[tokio::test]
async fn several_addresses_share_the_calls() {
    let (one, other) = (Store::open().await, Store::open().await);
    let both = format!("{},{}", one.targets.direct["users"], other.targets.direct["users"]);
    let targets = Targets { mesh: None, direct: BTreeMap::from([("users".to_owned(), both)]) };
    let mut users = UserServiceClient::new(targets.channel("users").expect("a channel"));
    // The same email has one id in one store; both stores give out 1 to the first.
    const ASKED: i32 = 64;
    let mut ids = 0;
    for n in 0..ASKED {
        let ada = RegisterRequest { name: "Ada".to_owned(), email: format!("ada-{n}@example.com") };
        ids = ids.max(users.register(ada).await.expect("an id").into_inner().id);
    }
    assert!(ids < ASKED, "one store took all calls");
    one.close().await;
    other.close().await;
}

#[tokio::test]
async fn a_stop_ends_an_open_stream_with_unavailable() {
    let store = Store::open().await;
    let mut orders = OrderServiceClient::new(store.channel("orders"));
    let (_asking, asked) = tokio::sync::mpsc::channel::<WatchOrderRequest>(1);
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut events = orders.watch_order(asked).await.expect("a stream").into_inner();
    store.stopper.stop();
    assert_eq!(events.message().await.expect_err("an end").code(), Code::Unavailable);
    store.close().await;
}

#[tokio::test]
async fn shoppers_use_every_kind_of_call_and_account_for_all_of_them() {
    let store = Store::open().await;
    let counts = Counts::default();
    let (stopper, stop) = stop::pair();
    let plan = Plan { shoppers: 2, calls_per_second: 2_000.0, deadline: None };
    let targets = store.targets.clone();
    let shopping = {
        let counts = counts.clone();
        tokio::spawn(async move { shop(plan, &targets, &counts, &stop).await })
    };
    const METHODS: usize = 7;
    while counts.snapshot().len() < METHODS {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    stopper.stop();
    shopping.await.expect("no panic").expect("shoppers");

    let counted = counts.snapshot();
    for (method, count) in &counted {
        assert!(count.started > 0, "{method:?}");
        assert_eq!((count.ok, count.open(), count.failed.len()), (count.started, 0, 0), "{method:?}");
    }
    let created = &counted[&("orders.shop".to_owned(), "shop.OrderService/CreateOrder")];
    let charged = &store.charges.snapshot()[&("payments.shop".to_owned(), "shop.PaymentService/Charge")];
    assert_eq!(created.ok, charged.ok);
    store.close().await;
}

#[tokio::test]
async fn the_storefront_tells_its_counts() {
    let counts = Counts::default();
    let (stopper, stop) = stop::pair();
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let storefront = arguments(App::Storefront, &Targets::default());
    let routes = routes(&storefront, &counts, &stop).expect("routes");
    let serving = tokio::spawn(serve(listener, routes, stop));
    let open = counts.start("users", "shop.UserService/GetUser");

    let targets = Targets { mesh: Some(url), direct: BTreeMap::new() };
    let mut storefront = StorefrontServiceClient::new(targets.channel("storefront").expect("a channel"));
    let mut tallies = storefront.tally(TallyRequest {}).await.expect("a stream").into_inner();
    let tally = tallies.message().await.expect("a message").expect("a tally");
    assert_eq!((tally.calls[0].started, tally.calls[0].open), (1, 1));
    assert_eq!(tally.calls[0].service, "users.shop");
    drop(open);
    stopper.stop();
    assert_eq!(tallies.message().await.expect_err("the end").code(), Code::Unavailable);
    serving.await.expect("no panic").expect("a graceful end");
}
