//! What tests stand on: real servers on loopback, the emulator, the binary.

pub mod binary;
pub mod clock;
pub mod collector;
pub mod emulator;
pub mod fake_api;
pub mod faults;
pub mod frozen_clock;
pub mod github;
pub mod google;
pub mod hasty_clock;
pub mod meddler;
pub mod oidc;
pub mod plain_http;
pub mod rows;
pub mod served;
pub mod shop;
pub mod stand_ins;
pub mod tables;
pub mod tls;
