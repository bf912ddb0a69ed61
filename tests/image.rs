//! The image: what its Dockerfile says, and what its last stage has, run in an empty root folder.

use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The instructions, in order: the word, and what follows it. Continued lines are one; comments are left out.
fn instructions(dockerfile: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = String::new();
    for line in dockerfile.lines().map(str::trim) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(begun) => open.push_str(begun),
            None => {
                open.push_str(line);
                let (word, rest) = open.split_once(' ').unwrap();
                found.push((word.to_owned(), rest.trim().to_owned()));
                open.clear();
            }
        }
    }
    assert!(open.is_empty(), "{open}");
    found
}

/// Those of each stage, its `FROM` first.
fn stages(dockerfile: &str) -> Vec<Vec<(String, String)>> {
    let mut stages: Vec<Vec<(String, String)>> = Vec::new();
    for instruction in instructions(dockerfile) {
        if instruction.0 == "FROM" {
            stages.push(Vec::new());
        }
        stages.last_mut().unwrap().push(instruction);
    }
    stages
}

fn values<'a>(stage: &'a [(String, String)], word: &str) -> Vec<&'a str> {
    let of = stage.iter().filter(|(w, _)| w == word);
    of.map(|(_, value)| value.as_str()).collect()
}

#[test]
fn the_last_stage_is_small_and_runs_as_nobody_in_particular() {
    let stages = stages(&read("Dockerfile"));
    let last = stages.last().unwrap();
    assert_eq!(
        values(last, "FROM"),
        ["gcr.io/distroless/static-debian12:nonroot"]
    );
    assert_eq!(values(last, "USER"), ["65532:65532"]);
    // Exec form: the program is process 1 and gets the signals. There is no shell besides.
    assert_eq!(
        values(last, "ENTRYPOINT"),
        [r#"["/usr/local/bin/drawoff"]"#]
    );
    assert_eq!(values(last, "CMD"), [r#"["--all"]"#]);
    assert_eq!(values(last, "WORKDIR"), ["/work"]);
    assert!(values(last, "RUN").is_empty());
    // A job has none, and Cloud Run pays no heed to it.
    assert!(
        instructions(&read("Dockerfile"))
            .iter()
            .all(|(word, _)| word != "HEALTHCHECK")
    );
    for copied in values(last, "COPY") {
        assert!(copied.starts_with("--from=build "), "{copied}");
    }
}

#[test]
fn it_is_built_by_the_toolchain_of_the_repository() {
    let toolchain = read("rust-toolchain.toml");
    let version = toolchain
        .split("channel = \"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let stages = stages(&read("Dockerfile"));
    assert_eq!(
        values(&stages[0], "FROM"),
        [format!("rust:{version}-bookworm AS build")]
    );
    assert_eq!(
        values(&stages[0], "ENV"),
        [format!("RUSTUP_TOOLCHAIN={version}")]
    );
}

#[test]
fn what_it_copies_is_there_and_not_ignored() {
    let ignored = read(".dockerignore");
    let kept: Vec<&str> = ignored
        .lines()
        .filter_map(|l| l.strip_prefix('!'))
        .collect();
    assert_eq!(ignored.lines().next(), Some("*"));
    let stages = stages(&read("Dockerfile"));
    let mut copied = Vec::new();
    for value in values(&stages[0], "COPY") {
        let words: Vec<&str> = value.split(' ').collect();
        copied.extend_from_slice(&words[..words.len() - 1]);
    }
    for path in &copied {
        assert!(
            root().join(path).exists(),
            "`{path}` is copied and not there"
        );
        assert!(kept.contains(path), "`{path}` is copied and ignored");
    }
    for path in kept {
        assert!(copied.contains(&path), "`{path}` is sent and not copied");
    }
}

#[test]
fn the_layer_of_dependencies_has_every_target() {
    let cargo = read("Cargo.toml");
    let stages = stages(&read("Dockerfile"));
    let layer = values(&stages[0], "RUN")[0];
    for bench in cargo.split("[[bench]]\nname = \"").skip(1) {
        let name = bench.split('"').next().unwrap();
        assert!(
            layer.contains(&format!("benches/{name}.rs")),
            "{name} is not in: {layer}"
        );
    }
    assert!(layer.contains("deploy/image/build.sh"), "{layer}");
}

#[test]
fn the_program_runs_in_an_empty_read_only_root_as_process_one() {
    // Not on every machine may one become root of a folder.
    let may = Command::new("unshare")
        .args(["--map-root-user", "--net", "true"])
        .output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!("not tried: `unshare --map-root-user` does not work on this machine");
        return;
    }
    let output = Command::new(root().join("deploy/image/check.sh"))
        .arg(env!("CARGO_BIN_EXE_drawoff"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    for line in [
        "in-hosts: read",
        "in-dns: read",
        "stranger: refused",
        "ended with 75",
        "all is well",
    ] {
        assert!(said.contains(line), "`{line}` is not in {said}");
    }
}
