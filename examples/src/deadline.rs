//! The deadline of a call: told to whoever serves it, and kept by the caller whatever they do.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Code, Request, Status};

/// A request that tells its deadline (`grpc-timeout`).
pub fn request<T>(message: T, deadline: Option<Duration>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    request
}

/// What `call` comes to, or DEADLINE_EXCEEDED once its time is over; a stream must end by then too.
///
/// # Errors
/// That, and those of the call.
pub async fn within<T>(
    deadline: Option<Duration>,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    let Some(deadline) = deadline else { return call.await };
    match timeout(deadline, call).await {
        // tonic's own timer, which minds `grpc-timeout` too, has another name for the same.
        Ok(Err(status)) if status.code() == Code::Cancelled && status.message() == "Timeout expired" => {
            Err(exceeded(deadline))
        }
        Ok(outcome) => outcome,
        Err(_) => Err(exceeded(deadline)),
    }
}

fn exceeded(deadline: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {deadline:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_ends_ends_at_its_deadline_whoever_looks_first() {
        let deadline = Some(Duration::from_secs(3));
        let ended = within(deadline, std::future::pending::<Result<(), _>>()).await;
        assert_eq!(ended.expect_err("a deadline").code(), Code::DeadlineExceeded);
        let tonics = async { Err::<(), _>(Status::cancelled("Timeout expired")) };
        assert_eq!(within(deadline, tonics).await.expect_err("a deadline").code(), Code::DeadlineExceeded);
    }

    #[test]
    fn a_deadline_is_told_in_the_request() {
        let request = request((), Some(Duration::from_millis(1_500)));
        let told = request.metadata().get("grpc-timeout").expect("a deadline");
        assert_eq!(told, "1500000u");
        assert!(super::request((), None).metadata().is_empty());
    }
}
