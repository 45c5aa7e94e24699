//! Compiles the protos in pure Rust, so that no protoc need be installed.

use std::error::Error;

const PROTOS: [&str; 6] =
    ["users.proto", "products.proto", "orders.proto", "payments.proto", "storefront.proto", "health.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
