//! What tests stand on: real servers on loopback, the emulator, the binary.

pub mod frozen_clock;
pub mod plain_http;
pub mod rows;
