//! What tests stand on: real servers on loopback, the emulator, the binary.

pub mod clock;
pub mod fake_api;
pub mod oidc;
pub mod tls;
