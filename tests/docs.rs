//! What the docs say of the tests is true: each test that they name exists, and runs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The pages that say which test holds what, and how many tests each names at the least.
const PAGES: [(&str, usize); 2] = [
    ("docs/bigquery-tests.md", 100),
    ("docs/authentication.md", 20),
];

/// The heading of the column that names tests.
const HELD_BY: &str = "held by";

fn read(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// The tests of this binary that are not ignored, as it lists them itself: `state::the_record_of_a_run`.
fn listed() -> BTreeSet<String> {
    let list = |more: &[&str]| -> BTreeSet<String> {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--list", "--format", "terse"])
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .filter_map(|line| line.strip_suffix(": test").map(str::to_owned))
            .collect()
    };
    let ignored = list(&["--ignored"]);
    list(&[]).difference(&ignored).cloned().collect()
}

/// Whether the source has a function of that name that is a test and is not ignored.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let begins = [format!("fn {name}("), format!("async fn {name}(")];
    lines.iter().enumerate().any(|(at, line)| {
        let attributes = lines[..at]
            .iter()
            .rev()
            .take_while(|l| l.starts_with("#[") || l.starts_with("//"));
        let has = |begin: &str| attributes.clone().any(|a| a.starts_with(begin));
        begins.iter().any(|begin| line.starts_with(begin))
            && (has("#[test]") || has("#[tokio::test"))
            && !has("#[ignore")
    })
}

/// The tests that a text names: `path.rs: name` in backticks.
fn named(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|code| {
        let (path, name) = code.split_once(": ")?;
        path.ends_with(".rs").then_some((path, name))
    })
}

/// What is wrong with a page, as sentences. `listed` are the tests below `tests/`.
fn mistakes(page: &str, listed: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut in_table = false;
    for line in page.lines() {
        in_table &= line.starts_with('|');
        if in_table && !line.starts_with("|-") && named(line).next().is_none() {
            wrong.push(format!("no test is named in: {line}"));
        }
        in_table |= line.starts_with('|') && line.trim_end_matches(" |").ends_with(HELD_BY);
    }
    for (path, name) in named(page) {
        let exists = match path.strip_prefix("tests/") {
            Some(file) => {
                let module = file.trim_end_matches(".rs").replace('/', "::");
                // A test, or a module of tests for many kinds of one thing.
                let (test, kinds) = (format!("{module}::{name}"), format!("{module}::{name}::"));
                listed.contains(&test) || listed.iter().any(|t| t.starts_with(&kinds))
            }
            None => read(path).is_some_and(|source| has_test(&source, name)),
        };
        if !exists {
            wrong.push(format!("there is no test `{path}: {name}`"));
        }
    }
    wrong
}

#[test]
fn every_test_that_the_docs_name_exists() {
    let listed = listed();
    for (path, least) in PAGES {
        let page = read(path).unwrap();
        let names = named(&page).count();
        assert!(names >= least, "only {names} tests are named in {path}");
        let wrong = mistakes(&page, &listed);
        assert!(wrong.is_empty(), "{path}:\n{}", wrong.join("\n"));
    }
}

#[test]
fn a_test_that_is_gone_is_missed() {
    let listed = listed();
    let of = |row: &str| mistakes(&format!("| x | held by |\n|---|---|\n{row}\n"), &listed).len();
    assert_eq!(
        of("| a | `tests/docs.rs: a_test_that_is_gone_is_missed` |"),
        0
    );
    assert_eq!(of("| a | `src/google/failure.rs: reads_reason_codes` |"), 0);
    assert_eq!(of("| a | `tests/docs.rs: gone` |"), 1);
    assert_eq!(
        of("| a | `tests/state.rs: a_test_that_is_gone_is_missed` |"),
        1
    );
    assert_eq!(of("| a | `src/google/failure.rs: gone` |"), 1);
    assert_eq!(of("| a | `src/gone.rs: reads_reason_codes` |"), 1);
    assert_eq!(of("| a | nothing |"), 1);
    // A function beside the tests, and a test that does not run.
    assert_eq!(of("| a | `src/google/failure.rs: tidy` |"), 1);
    assert_eq!(of("| a | `tests/destinations/kill.rs: child` |"), 1);
    let source =
        "#[test]\n#[ignore = \"slow\"]\nfn slow() {}\n\n#[test]\n/// Why.\nfn quick() {}\n";
    assert!(has_test(source, "quick") && !has_test(source, "slow"));
}
