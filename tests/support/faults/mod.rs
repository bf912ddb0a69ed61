//! Proxies on loopback that misbehave on demand.

mod cut;
pub mod gate;
pub mod grpc;
mod line;
mod rest;

pub use cut::CuttingProxy;
pub use line::Line;
pub use rest::{Fault, RestProxy, Rule};
