//! How long a call may take.

use std::time::Duration;

use config::model::Deadline;

/// What a call is given: what it asks for or else the route's default, and never more than the cap. `None`:
/// as long as it likes.
pub(crate) fn granted(asked: Option<Duration>, policy: Deadline) -> Option<Duration> {
    let wanted = asked.or(policy.default)?;
    Some(policy.max.map_or(wanted, |max| wanted.min(max)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_for_calls_that_bring_none_and_the_cap_for_all_that_have_one() {
        let second = Duration::from_secs(1);
        let policy = Deadline { default: Some(second), max: Some(2 * second), ..Deadline::default() };
        assert_eq!(granted(None, policy), Some(second));
        assert_eq!(granted(Some(second / 2), policy), Some(second / 2));
        assert_eq!(granted(Some(9 * second), policy), Some(2 * second));
        let capped = Deadline { max: Some(second), ..Deadline::default() };
        assert_eq!(granted(None, capped), None, "a stream without a deadline is not touched by the cap");
        assert_eq!(granted(Some(9 * second), Deadline::default()), Some(9 * second));
    }
}
