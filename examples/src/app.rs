//! The life of one app: bind, say where, serve (and shop), stop.

use std::convert::Infallible;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval};
use tonic::service::Routes;

use crate::arguments::{App, Arguments};
use crate::counts::{Counts, code_name};
use crate::health::Answering;
use crate::ledger::Ledger;
use crate::orders::Orders;
use crate::payments::Payments;
use crate::pb::ChargeRequest;
use crate::pb::health::health_server::HealthServer;
use crate::pb::order_service_server::OrderServiceServer;
use crate::pb::payment_service_client::PaymentServiceClient;
use crate::pb::payment_service_server::PaymentServiceServer;
use crate::pb::product_service_server::ProductServiceServer;
use crate::pb::storefront_service_server::StorefrontServiceServer;
use crate::pb::user_service_server::UserServiceServer;
use crate::products::Products;
use crate::serve::serve;
use crate::shoppers::{Plan, shop};
use crate::stop::{self, Stop, Stopper};
use crate::storefront::Storefront;
use crate::targets::Targets;
use crate::users::Users;

/// Runs one app as a process: stops on signals, prints where it listens and what it has counted.
///
/// # Errors
/// One line that says what could not be done.
pub async fn run(arguments: Arguments) -> Result<(), String> {
    if arguments.app == App::Charge {
        return charge_once(&arguments.targets).await;
    }
    let (stopper, stop) = stop::pair();
    stopper.on_signals().map_err(|error| format!("cannot listen for signals: {error}"))?;
    if arguments.app == App::Storefront {
        stopper.on_stdin();
    }
    let listener = TcpListener::bind(arguments.listen).await;
    let listener = listener.map_err(|error| format!("cannot listen on {}: {error}", arguments.listen))?;
    let address = listener.local_addr().map_err(|error| format!("no address: {error}"))?;
    print_line(&json!({ "listen": address }));

    let counts = Counts::default();
    let routes = routes(&arguments, &counts, &stop)?;
    let served = serve(listener, routes, stop.clone());
    match arguments.app {
        App::Storefront => shop_and_serve(&arguments, &counts, &stopper, &stop, served).await,
        App::Orders => {
            let served = until(served, print_counts(&counts, arguments.print_every)).await;
            print_line(&counts.to_json(true));
            served.map_err(|error| error.to_string())
        }
        _ => served.await.map_err(|error| error.to_string()),
    }
}

/// The gRPC service of an app, and its health. Calls that it makes go to the targets and are counted in `counts`.
///
/// # Errors
/// When the app calls a service that there is no address for, or its ledger cannot be written.
pub fn routes(arguments: &Arguments, counts: &Counts, stop: &Stop) -> Result<Routes, String> {
    let (routes, service) = match arguments.app {
        App::Users => (Routes::new(UserServiceServer::new(Users::default())), "shop.UserService"),
        App::Products => (Routes::new(ProductServiceServer::new(Products)), "shop.ProductService"),
        App::Payments => {
            let ledger = match &arguments.ledger {
                Some(folder) => Ledger::shared(folder)
                    .map_err(|error| format!("--ledger {}: {error}", folder.display()))?,
                None => Ledger::default(),
            };
            (Routes::new(PaymentServiceServer::new(Payments::new(ledger))), "shop.PaymentService")
        }
        App::Orders => {
            let payments = arguments.targets.channel("payments")?;
            let orders = Orders::new(payments, arguments.deadline, counts.clone(), stop.clone());
            (Routes::new(OrderServiceServer::new(orders)), "shop.OrderService")
        }
        App::Storefront => {
            let storefront = Storefront::new(counts.clone(), stop.clone());
            (Routes::new(StorefrontServiceServer::new(storefront)), "shop.StorefrontService")
        }
        App::Charge => return Err("charge is a call and serves nothing".to_owned()),
    };
    Ok(routes.add_service(HealthServer::new(Answering { service })))
}

async fn shop_and_serve(
    arguments: &Arguments,
    counts: &Counts,
    stopper: &Stopper,
    stop: &Stop,
    served: impl Future<Output = io::Result<()>>,
) -> Result<(), String> {
    let plan =
        Plan { shoppers: arguments.shoppers, calls_per_second: arguments.rate, deadline: arguments.deadline };
    let shopping = async {
        let shopped = shop(plan, &arguments.targets, counts, stop).await;
        // Shoppers that cannot begin end the app.
        stopper.stop();
        shopped
    };
    let (served, shopped) =
        until(async { tokio::join!(served, shopping) }, print_counts(counts, arguments.print_every)).await;
    print_line(&counts.to_json(true));
    shopped.and(served.map_err(|error| error.to_string()))
}

/// One call to `Charge`, as somebody who may or may not; the code is the answer, whatever it is.
async fn charge_once(targets: &Targets) -> Result<(), String> {
    let mut payments = PaymentServiceClient::new(targets.channel("payments")?);
    let request = ChargeRequest { idempotency_key: "may I charge?".to_owned(), user_id: 1, amount_cents: 1 };
    let (code, message) = match payments.charge(request).await {
        Ok(_) => (tonic::Code::Ok, String::new()),
        Err(status) => (status.code(), status.message().to_owned()),
    };
    print_line(&json!({ "code": code_name(code), "message": message }));
    Ok(())
}

/// Runs `work` to its end with `beside` going on meanwhile.
async fn until<T>(work: impl Future<Output = T>, beside: impl Future<Output = Infallible>) -> T {
    tokio::select! {
        done = work => done,
        never = beside => match never {},
    }
}

async fn print_counts(counts: &Counts, every: Duration) -> Infallible {
    let mut period = interval(every);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        print_line(&counts.to_json(false));
    }
}

/// A reader that has gone is no reason to stop serving.
fn print_line(line: &Value) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}
