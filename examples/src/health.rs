//! `grpc.health.v1.Health`: an app that can answer serves.

use tonic::{Request, Response, Status};

use crate::pb::health::health_check_response::ServingStatus;
use crate::pb::health::health_server::Health;
use crate::pb::health::{HealthCheckRequest, HealthCheckResponse};

/// Answers for the app as a whole and for its one service.
#[derive(Clone, Copy, Debug)]
pub struct Answering {
    /// `shop.PaymentService`.
    pub service: &'static str,
}

#[tonic::async_trait]
impl Health for Answering {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let asked = request.into_inner().service;
        if !asked.is_empty() && asked != self.service {
            return Err(Status::not_found(format!("`{asked}` is not served here, {} is", self.service)));
        }
        Ok(Response::new(HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }
}
