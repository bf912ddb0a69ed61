//! Proxies on loopback that misbehave on demand.

mod cut;
pub mod gate;
pub mod grpc;
mod rest;

pub use cut::CuttingProxy;
pub use rest::{Fault, RestProxy, Rule};
