//! Every leaf key of both files, each with a test that changes only that key and sees traffic change.
//!
//! [`kit::Case::change`] makes the change and refuses to touch anything but the key that the test stands
//! for, so "only that key" holds by construction; [`no_leaf_key_is_without_a_test`] compares the tables of
//! all modules with the schema. A test runs the real sidecar twice, as the base says and with the change.

/// `"key" => function`, one for each key: the table of a module, and a `#[test]` for each line of it.
macro_rules! cases {
    ($($key:literal => $test:ident,)*) => {
        pub(crate) const KEYS: &[&str] = &[$($key),*];

        mod key {
            $(#[test]
            fn $test() {
                crate::kit::run($key, super::$test);
            })*
        }
    };
}

/// `"policy key" => function`: as [`cases!`], for a key that may stand at each of the levels named.
macro_rules! levels {
    ($levels:tt $($key:literal => $test:ident,)*) => {
        pub(crate) const KEYS: &[&str] = levels!(@keys $levels $($key)*);

        $(mod $test {
            levels!(@tests $levels $key $test);
        })*
    };
    (@keys [service] $($key:literal)*) => {
        &[$(concat!("mesh.defaults.", $key), concat!("mesh.services[].", $key)),*]
    };
    (@keys [method] $($key:literal)*) => {
        &[$(
            concat!("mesh.defaults.", $key),
            concat!("mesh.services[].", $key),
            concat!("mesh.services[].routes[].", $key),
            concat!("mesh.services[].methods.*.", $key),
        )*]
    };
    (@tests [service] $key:literal $test:ident) => {
        #[test]
        fn in_defaults() {
            let key = concat!("mesh.defaults.", $key);
            crate::kit::run(key, async |case| super::$test(case, crate::level::Level::Defaults).await);
        }

        #[test]
        fn in_a_service() {
            let key = concat!("mesh.services[].", $key);
            crate::kit::run(key, async |case| super::$test(case, crate::level::Level::Service).await);
        }
    };
    (@tests [method] $key:literal $test:ident) => {
        levels!(@tests [service] $key $test);

        #[test]
        fn in_a_route() {
            let key = concat!("mesh.services[].routes[].", $key);
            crate::kit::run(key, async |case| super::$test(case, crate::level::Level::Route).await);
        }

        #[test]
        fn in_a_method() {
            let key = concat!("mesh.services[].methods.*.", $key);
            crate::kit::run(key, async |case| super::$test(case, crate::level::Level::Method).await);
        }
    };
}

#[path = "keys/authorization.rs"]
mod authorization;
#[path = "keys/balancing.rs"]
mod balancing;
#[path = "keys/control.rs"]
mod control;
#[path = "keys/deadlines.rs"]
mod deadlines;
#[path = "keys/dns.rs"]
mod dns;
#[path = "keys/drain.rs"]
mod drain;
#[path = "keys/endpoints.rs"]
mod endpoints;
#[path = "keys/faults.rs"]
mod faults;
#[path = "keys/headers.rs"]
mod headers;
#[path = "keys/health.rs"]
mod health;
#[path = "keys/hedging.rs"]
mod hedging;
#[path = "keys/identity.rs"]
mod identity;
#[path = "keys/keepalive.rs"]
mod keepalive;
#[path = "keys/kit.rs"]
mod kit;
#[path = "keys/level.rs"]
mod level;
#[path = "keys/limits.rs"]
mod limits;
#[path = "keys/listeners.rs"]
mod listeners;
#[path = "keys/outliers.rs"]
mod outliers;
#[path = "control/plane.rs"]
mod plane;
#[path = "keys/recording.rs"]
mod recording;
#[path = "keys/repeats.rs"]
mod repeats;
#[path = "keys/routes.rs"]
mod routes;
#[path = "keys/services.rs"]
mod services;
#[path = "keys/slow_start.rs"]
mod slow_start;
#[path = "keys/upstream.rs"]
mod upstream;
#[path = "keys/windows.rs"]
mod windows;

const TABLES: &[&[&str]] = &[
    identity::KEYS,
    listeners::KEYS,
    control::KEYS,
    dns::KEYS,
    drain::KEYS,
    limits::KEYS,
    windows::KEYS,
    services::KEYS,
    endpoints::KEYS,
    routes::KEYS,
    authorization::COVERED,
    authorization::KEYS,
    deadlines::KEYS,
    faults::KEYS,
    headers::KEYS,
    balancing::KEYS,
    outliers::KEYS,
    slow_start::KEYS,
    repeats::retries::KEYS,
    hedging::KEYS,
    repeats::budget::KEYS,
    repeats::idempotent::KEYS,
    repeats::replay::KEYS,
    upstream::KEYS,
    keepalive::KEYS,
    health::KEYS,
    recording::KEYS,
];

#[test]
fn no_leaf_key_is_without_a_test() {
    let mut tested: Vec<&str> = TABLES.concat();
    let mut keys = config::leaf_keys();
    // Nothing that a sidecar reads; `control/tests` has them.
    keys.retain(|key| !key.starts_with("control.") && key != "mesh.services[].registration");
    // They need somebody who issues certificates; `cli/tests/identity` and `identity/tests` have them.
    let issued = ["control", "token", "cache", "workload_api"].map(|key| format!("sidecar.identity.{key}"));
    keys.retain(|key| !issued.contains(key));
    keys.sort();
    let without: Vec<&String> = keys.iter().filter(|key| !tested.contains(&key.as_str())).collect();
    println!("{} leaf keys; without a test: {without:?}", keys.len());
    assert!(without.is_empty(), "leaf keys without a test: {without:#?}");
    tested.sort_unstable();
    assert_eq!(tested, keys, "a table names a key twice, or one that is not in the schema");
}
