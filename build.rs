//! Connectors and schemas are embedded; a file added to their folders must build the crate anew.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=connectors");
    println!("cargo:rerun-if-changed=schemas");
}
