//! `shop.PaymentService`: money, at most once per key.

use tonic::{Request, Response, Status};

use crate::ledger::{KEY_LENGTH_MAX, Ledger};
use crate::pb::payment_service_server::PaymentService;
use crate::pb::{ChargeRequest, ChargeResponse};

/// Charges by a ledger.
#[derive(Debug, Default)]
pub struct Payments(Ledger);

impl Payments {
    /// Charges by `ledger`; the default is one of its own, in memory.
    pub fn new(ledger: Ledger) -> Self {
        Self(ledger)
    }
}

#[tonic::async_trait]
impl PaymentService for Payments {
    async fn charge(&self, request: Request<ChargeRequest>) -> Result<Response<ChargeResponse>, Status> {
        let ChargeRequest { idempotency_key: key, amount_cents, user_id: _ } = request.into_inner();
        if key.is_empty() || key.len() > KEY_LENGTH_MAX {
            let fault = format!("idempotency_key has {} bytes; it needs 1 to {KEY_LENGTH_MAX}", key.len());
            return Err(Status::invalid_argument(fault));
        }
        if amount_cents <= 0 {
            return Err(Status::invalid_argument(format!(
                "amount_cents is {amount_cents}; it must be above 0"
            )));
        }
        let charged = self.0.charge(&key, amount_cents);
        charged.map(Response::new).map_err(|error| Status::internal(format!("the ledger: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn charge(payments: &Payments, key: &str, amount_cents: i64) -> Result<ChargeResponse, Status> {
        let request = ChargeRequest { idempotency_key: key.to_owned(), user_id: 1, amount_cents };
        payments.charge(Request::new(request)).await.map(Response::into_inner)
    }

    #[tokio::test]
    async fn the_same_key_never_charges_twice_and_answers_the_first_result() {
        let payments = Payments::default();
        let first = charge(&payments, "a", 500).await.expect("a charge");
        let again = charge(&payments, "a", 900).await.expect("the first answer");
        assert_eq!(first, again);
        assert_eq!(first.amount_cents, 500);
    }

    #[tokio::test]
    async fn different_keys_charge_each() {
        let payments = Payments::default();
        let first = charge(&payments, "a", 500).await.expect("a charge");
        let second = charge(&payments, "b", 500).await.expect("a charge");
        assert_ne!(first.charge_id, second.charge_id);
    }

    #[tokio::test]
    async fn a_charge_without_key_or_amount_charges_nothing() {
        let payments = Payments::default();
        for (key, amount) in [("", 500), ("a", 0), ("a", -1)] {
            let fault = charge(&payments, key, amount).await.expect_err("a fault");
            assert_eq!(fault.code(), tonic::Code::InvalidArgument);
        }
        // The first key that is good is the first charge.
        assert_eq!(charge(&payments, "a", 500).await.expect("a charge").charge_id, "charge-1");
    }
}
