//! The words of our own data on routes.

use config::model::Method;

/// The type of our data on a route.
pub(crate) const ROUTE: &str = "Route";

/// The type of our data on a listener.
pub(crate) const LISTENER: &str = "Listener";

/// What a route is that is none.
pub(crate) const ROLE: &str = "role";

/// It says what holds for a service.
pub(crate) const SERVICE: &str = "service";

/// It says what is known of a method.
pub(crate) const METHOD: &str = "method";

/// Calls that match no route end.
pub(crate) const REFUSE: &str = "refuse_unmatched";

/// The kind of call.
pub(crate) const TYPE: &str = "type";

/// A call of the method must not be processed twice.
pub(crate) const NOT_IDEMPOTENT: &str = "not_idempotent";

/// The policy blocks that the method has itself.
pub(crate) const BLOCKS: &str = "blocks";

/// The policy blocks.
pub(crate) const DEADLINE: &str = "deadline";
pub(crate) const STREAM: &str = "stream";
pub(crate) const HEADERS: &str = "headers";
pub(crate) const REPEATS: &str = "repeats";
pub(crate) const FAULTS: &str = "faults";

/// The blocks of a method.
pub(crate) fn blocks(method: &Method) -> impl Iterator<Item = &'static str> {
    let blocks = [
        (DEADLINE, method.deadline.is_some()),
        (STREAM, method.stream.is_some()),
        (HEADERS, method.headers.is_some()),
        (REPEATS, method.repeats.is_some()),
        (FAULTS, method.injection.is_some()),
    ];
    blocks.into_iter().filter_map(|(name, there)| there.then_some(name))
}
