//! What tests stand on: real servers on loopback, the emulator, the binary.

pub mod clock;
pub mod emulator;
pub mod fake_api;
pub mod faults;
pub mod frozen_clock;
pub mod oidc;
pub mod plain_http;
pub mod rows;
pub mod tls;
