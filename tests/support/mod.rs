//! What tests stand on: real servers on loopback, the emulator, the binary.

pub mod emulator;
pub mod faults;
