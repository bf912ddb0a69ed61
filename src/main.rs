//! The `drawoff` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    drawoff::cli::main()
}
