//! The `drawoff` binary.

fn main() {}
