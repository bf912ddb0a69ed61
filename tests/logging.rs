//! What a process that logs writes to standard error, and how a panic ends it. The process is this
//! test binary, started again for [`speak_and_panic`] alone.

use std::process::{Command, Output};

use drawoff::config::Environment;
use drawoff::telemetry::log::{self, Format, Origin};
use drawoff::telemetry::redact;
use serde_json::Value;

/// Set for the second process; its value is the format.
const FORMAT: &str = "DRAWOFF_TEST_LOG_FORMAT";

const CANARY: &str = "canary-\"7f3a\"";

#[test]
#[ignore = "started by the tests below, in a process of its own"]
fn speak_and_panic() {
    let format = match std::env::var_os(FORMAT) {
        Some(format) if format == "json" => Format::Json,
        _ => Format::Text { colour: false },
    };
    let origin = Origin::of(&Environment::of::<String, String>([]));
    log::init(format, log::levels(format, 0), origin, None).unwrap();
    redact::register(CANARY);
    tracing::warn!(token = CANARY, "spoke of {CANARY}");
    let thread = std::thread::Builder::new().name("reader".to_owned());
    let ended = thread
        .spawn(|| panic!("choked on\n{CANARY}"))
        .unwrap()
        .join();
    unreachable!("the process should have ended: {}", ended.is_err());
}

fn run(format: &str) -> (Output, Vec<String>) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "--nocapture",
            "logging::speak_and_panic",
        ])
        .env(FORMAT, format)
        .output()
        .unwrap();
    let lines = String::from_utf8(output.stderr.clone()).unwrap();
    (output, lines.lines().map(str::to_owned).collect())
}

#[test]
fn a_panic_is_one_redacted_line_and_exit_code_1() {
    let (output, lines) = run("text");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0], "warn: spoke of [redacted] token=[redacted]");
    assert!(
        lines[1].starts_with("error: drawoff has a bug: choked on [redacted] (tests/logging.rs:"),
        "{lines:?}"
    );
    assert!(lines[1].ends_with("; please report it"), "{lines:?}");
}

#[test]
fn a_panic_in_json_is_for_error_reporting() {
    let (output, lines) = run("json");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(!lines.concat().contains("canary"), "{lines:?}");
    let entry: Value = serde_json::from_str(&lines[1]).unwrap();
    assert_eq!(entry["severity"], "CRITICAL");
    assert_eq!(
        entry["message"],
        "drawoff has panicked: choked on\n[redacted]"
    );
    assert_eq!(entry["@type"], log::REPORTED_ERROR);
    assert_eq!(
        entry["context"]["reportLocation"]["filePath"],
        "tests/logging.rs"
    );
    assert_eq!(
        entry["context"]["reportLocation"]["functionName"],
        "tests::logging: choked on"
    );
    assert!(
        entry["context"]["reportLocation"]["lineNumber"]
            .as_u64()
            .is_some()
    );
    assert_eq!(entry["serviceContext"]["service"], "drawoff");
    assert_eq!(
        entry["serviceContext"]["version"],
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(entry["thread"], "reader");
}
