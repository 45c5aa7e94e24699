//! What the mesh is told, so that it saves what can be saved.

use crate::demo::mesh::Services;

/// The services of the two stores. The second number of replicas leaves one when another one is hit.
pub(crate) const SERVICES: Services =
    [("users", 1), ("products", 3), ("payments", 3), ("orders", 3), ("storefront", 1)];

/// For orders. A watch is committed with its first message, not with headers that any replica sends at once. An order
/// whose charge had no answer in time ends DEADLINE_EXCEEDED and may be made anew, because payments know its key.
///
/// Nobody checks how orders are: every sidecar would, and an app that was frozen ends the connection which its watches
/// share with everything else once it finds more than twenty calls on it that were given up meanwhile.
const ORDERS: &str = concat!(
    "    retries:\n",
    "      {max_attempts: 4, initial_backoff: 20ms, max_backoff: 200ms, per_attempt_timeout: 1s, commit: first_message,\n",
    "       retryable_status_codes: [UNAVAILABLE, DEADLINE_EXCEEDED]}\n",
    "    outliers: {consecutive_errors: 2, interval: 500ms, base_ejection_time: 3s, max_ejection_percent: 50%}\n",
    "    upstream: {connect_timeout: 500ms}\n",
);

/// For products, whose calls are short.
const PRODUCTS: &str = concat!(
    "    retries:\n",
    "      {max_attempts: 4, initial_backoff: 20ms, max_backoff: 200ms, per_attempt_timeout: 500ms, commit: first_message}\n",
    "    outliers: {consecutive_errors: 2, interval: 500ms, base_ejection_time: 3s, max_ejection_percent: 50%}\n",
    "    health: {check: grpc, interval: 1s, timeout: 500ms, unhealthy_threshold: 2, healthy_threshold: 1}\n",
    "    upstream: {connect_timeout: 500ms}\n",
);

/// For payments, which orders call within their own attempt, so its attempts are shorter. A charge may go out again,
/// because payments charge a key once.
const PAYMENTS: &str = concat!(
    "    retries: {max_attempts: 4, initial_backoff: 20ms, max_backoff: 100ms, per_attempt_timeout: 400ms}\n",
    "    outliers: {consecutive_errors: 2, interval: 500ms, base_ejection_time: 3s, max_ejection_percent: 50%}\n",
    "    health: {check: grpc, interval: 1s, timeout: 500ms, unhealthy_threshold: 2, healthy_threshold: 1}\n",
    "    upstream: {connect_timeout: 200ms}\n",
);

/// The lines of a service in its mesh file besides those of every demo.
pub(crate) fn of(service: &str) -> &'static str {
    match service {
        "orders" => ORDERS,
        "products" => PRODUCTS,
        "payments" => PAYMENTS,
        _ => "",
    }
}
