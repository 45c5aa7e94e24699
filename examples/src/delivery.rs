//! Where an order is at a given moment: a pure function of its id and the clock.
//!
//! Replicas of the order service share nothing, and any of them may be asked about any order. So the id
//! carries the moment at which the order was created, and the events follow from it.

use std::time::Duration;

/// The last event of an order.
pub const DELIVERED: &str = "delivered";

/// The events of an order, and how long after its creation each happens.
pub const EVENTS: [(&str, Duration); 3] = [
    ("created", Duration::ZERO),
    ("in transit", Duration::from_millis(500)),
    (DELIVERED, Duration::from_millis(1_500)),
];

/// An id that lies further ahead of our clock than this is none of ours.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

/// Writes an order's id: when it was created (since the Unix epoch) and what tells it from its siblings.
pub fn order_id(created: Duration, replica: u32, number: u64) -> String {
    format!("{}-{replica:x}-{number}", created.as_millis())
}

/// Reads when an order was created, since the Unix epoch.
///
/// # Errors
/// When it is no id that [`order_id`] wrote, or one from the future.
pub fn created(order_id: &str, now: Duration) -> Result<Duration, String> {
    let mut parts = order_id.split('-');
    let millis = parts.next().and_then(|millis| millis.parse().ok());
    let rest = (parts.next(), parts.next(), parts.next());
    let (Some(millis), (Some(_), Some(_), None)) = (millis, rest) else {
        return Err(format!("`{order_id}` is no order id"));
    };
    let created = Duration::from_millis(millis);
    if created > now + CLOCK_SKEW_MAX {
        return Err(format!("order `{order_id}` was created in the future"));
    }
    Ok(created)
}

/// An order whose events are being told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    order_id: String,
    created: Duration,
    told: usize,
}

impl Tracked {
    /// Begins before the first event.
    ///
    /// # Errors
    /// As [`created`].
    pub fn new(order_id: String, now: Duration) -> Result<Self, String> {
        let created = created(&order_id, now)?;
        Ok(Self { order_id, created, told: 0 })
    }

    /// The order's id.
    pub fn order_id(&self) -> &str {
        &self.order_id
    }

    /// How long until the next event; zero if it has happened, `None` once all are told.
    pub fn next_in(&self, now: Duration) -> Option<Duration> {
        let (_, after) = EVENTS.get(self.told)?;
        Some((self.created + *after).saturating_sub(now))
    }

    /// Takes the next event that has happened.
    pub fn take(&mut self, now: Duration) -> Option<&'static str> {
        let (status, after) = EVENTS.get(self.told)?;
        if self.created + *after > now {
            return None;
        }
        self.told += 1;
        Some(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATED: Duration = Duration::from_secs(1_000);

    #[test]
    fn events_come_in_order_and_each_once_and_not_before_their_time() {
        let mut order = Tracked::new(order_id(CREATED, 7, 1), CREATED).expect("our own id");
        assert_eq!(order.take(CREATED), Some("created"));
        assert_eq!(order.take(CREATED), None);
        assert_eq!(order.next_in(CREATED), Some(Duration::from_millis(500)));
        let late = CREATED + Duration::from_secs(9);
        assert_eq!(order.next_in(late), Some(Duration::ZERO));
        assert_eq!((order.take(late), order.take(late)), (Some("in transit"), Some("delivered")));
        assert_eq!((order.take(late), order.next_in(late)), (None, None));
    }

    #[test]
    fn a_foreign_id_is_refused_with_its_text() {
        for id in ["", "7", "x-1-1", "1-2-3-4", "-1-2"] {
            assert_eq!(Tracked::new(id.to_owned(), CREATED).expect_err(id), format!("`{id}` is no order id"));
        }
        let ahead = order_id(CREATED + CLOCK_SKEW_MAX + Duration::from_millis(1), 7, 1);
        assert!(Tracked::new(ahead, CREATED).expect_err("the future").contains("in the future"));
    }
}
