//! Imports only go down. Reads the sources: which module names which other, against the order in
//! which they may.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules in order: each may use those in lines above its own, and itself. `demo` stands apart: see
/// [`DEMO_USES`].
const ORDER: [&[&str]; 14] = [
    &["error"],
    &["config"],
    &["telemetry", "clock", "yaml"],
    &["http", "schema"],
    &["auth"],
    &["google"],
    &["secrets", "connector", "state"],
    &["settings"],
    &["source", "destination", "demo"],
    &["pipeline"],
    &["app"],
    &["server"],
    &["cli"],
    // The binary and the crate's root, which only say what there is.
    &["main", "lib"],
];

/// The demo API plays a third party: it must not share code with what is to read it.
const DEMO_USES: [&str; 3] = ["error", "clock", "telemetry"];

fn rank(module: &str) -> Option<usize> {
    ORDER.iter().position(|line| line.contains(&module))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Modules named after `crate::` in the code, comments left out; `crate::{a, b::c}` names `a` and `b`.
fn uses(code: &str) -> BTreeSet<String> {
    let code: String = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.insert(first_name(rest)),
            Some(group) => {
                let mut depth = 0;
                let mut at_name = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => at_name = true,
                        c if at_name && !c.is_whitespace() => {
                            found.insert(first_name(&group[i..]));
                            at_name = false;
                        }
                        _ => {}
                    }
                }
                true
            }
        };
    }
    // A macro or an item of the crate's root has no module.
    found.retain(|name| rank(name).is_some());
    found
}

fn first_name(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// What `module` must not use but does, as sentences.
fn violations(module: &str, used: &BTreeSet<String>) -> Vec<String> {
    let Some(own) = rank(module) else {
        return vec![format!("`{module}` has no place in the order: give it one")];
    };
    used.iter()
        .filter(|other| *other != module)
        .filter(|other| match module {
            "demo" => !DEMO_USES.contains(&other.as_str()),
            _ => rank(other).is_some_and(|r| r >= own),
        })
        .map(|other| format!("`{module}` uses `{other}`, which does not stand below it"))
        .collect()
}

#[test]
fn imports_only_go_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "only {} sources found", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&root).unwrap();
        let module = inside.iter().next().unwrap().to_str().unwrap();
        let module = module.strip_suffix(".rs").unwrap_or(module);
        if matches!(module, "lib" | "main") {
            continue;
        }
        let used = uses(&fs::read_to_string(&file).unwrap());
        for violation in violations(module, &used) {
            wrong.push(format!("src/{}: {violation}", inside.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_sees_what_the_compiler_sees() {
    let code = "
        use crate::error::{Error, Result};
        use crate::{clock::Clock, http::{self, Sign}, schema};
        // use crate::cli::run;
        /// See [`crate::app`].
        fn f() -> crate::state::Checkpoint { crate::bail!() }
    ";
    let used: Vec<String> = uses(code).into_iter().collect();
    assert_eq!(used, ["clock", "error", "http", "schema", "state"]);
}

#[test]
fn upward_and_sideways_uses_are_found() {
    let of = |module: &str, used: &str| violations(module, &BTreeSet::from([used.to_owned()]));
    assert!(of("pipeline", "destination").is_empty());
    assert_eq!(of("connector", "destination").len(), 1);
    assert_eq!(of("http", "auth").len(), 1);
    assert_eq!(of("source", "destination").len(), 1);
    assert_eq!(of("demo", "http").len(), 1);
    assert_eq!(of("misc", "error").len(), 1);
}
