//! `shop.PaymentService`: money, at most once per key.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use tonic::{Request, Response, Status};

use crate::pb::payment_service_server::PaymentService;
use crate::pb::{ChargeRequest, ChargeResponse};

/// Keys that are remembered; past it the oldest is forgotten, as payment providers forget keys after a day.
pub const KEYS_MAX: usize = 200_000;

/// Bytes of one idempotency key.
pub const KEY_LENGTH_MAX: usize = 128;

/// The ledger, in memory.
#[derive(Debug, Default)]
pub struct Payments(Mutex<Ledger>);

#[derive(Debug, Default)]
struct Ledger {
    answers: HashMap<String, ChargeResponse>,
    /// The keys of `answers`, oldest first.
    keys: VecDeque<String>,
    charged_cents: i64,
    charges: u64,
}

impl Payments {
    /// The sum of everything that was ever charged, in cents.
    pub fn charged_cents(&self) -> i64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).charged_cents
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
        let mut ledger = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = ledger.answers.get(&key) {
            return Ok(Response::new(first.clone()));
        }
        Ok(Response::new(ledger.charge(key, amount_cents)))
    }
}

impl Ledger {
    fn charge(&mut self, key: String, amount_cents: i64) -> ChargeResponse {
        if self.keys.len() == KEYS_MAX
            && let Some(oldest) = self.keys.pop_front()
        {
            self.answers.remove(&oldest);
        }
        self.charges += 1;
        self.charged_cents += amount_cents;
        let answer = ChargeResponse { charge_id: format!("charge-{}", self.charges), amount_cents };
        self.keys.push_back(key.clone());
        self.answers.insert(key, answer.clone());
        answer
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
        assert_eq!(payments.charged_cents(), 500);
    }

    #[tokio::test]
    async fn different_keys_charge_each() {
        let payments = Payments::default();
        let first = charge(&payments, "a", 500).await.expect("a charge");
        let second = charge(&payments, "b", 500).await.expect("a charge");
        assert_ne!(first.charge_id, second.charge_id);
        assert_eq!(payments.charged_cents(), 1_000);
    }

    #[tokio::test]
    async fn a_charge_without_key_or_amount_charges_nothing() {
        let payments = Payments::default();
        for (key, amount) in [("", 500), ("a", 0), ("a", -1)] {
            let fault = charge(&payments, key, amount).await.expect_err("a fault");
            assert_eq!(fault.code(), tonic::Code::InvalidArgument);
        }
        assert_eq!(payments.charged_cents(), 0);
    }

    #[test]
    fn the_oldest_key_is_forgotten_past_the_limit() {
        let mut ledger = Ledger::default();
        for n in 0..=KEYS_MAX {
            ledger.charge(n.to_string(), 1);
        }
        assert_eq!((ledger.keys.len(), ledger.answers.len()), (KEYS_MAX, KEYS_MAX));
        assert!(!ledger.answers.contains_key("0") && ledger.answers.contains_key("1"));
    }
}
