//! The messages and services of package `shop`, generated from `proto/`, where they are documented.

#![allow(missing_docs, unreachable_pub, clippy::all)]

tonic::include_proto!("shop");

/// The health protocol of gRPC.
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}
