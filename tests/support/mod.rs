//! What tests stand on: real servers on loopback, the emulator, the binary.

pub mod frozen_clock;
pub mod plain_http;
pub mod rows;
pub mod clock;
pub mod fake_api;
pub mod oidc;
pub mod tls;
pub mod emulator;
pub mod faults;
