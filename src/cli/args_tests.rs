use super::*;

fn parsed(line: &str) -> Result<Cli, clap::Error> {
    parse(line.split_whitespace().map(OsString::from))
}

fn refused(line: &str) -> String {
    let error = parsed(line).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    error.to_string()
}

fn help(line: &str) -> String {
    let error = parsed(line).unwrap_err();
    assert_eq!(error.exit_code(), 0, "{error}");
    error.to_string()
}

#[test]
fn a_run_with_everything() {
    let cli = parsed(
        "drawoff --source acme --stream a --stream b,c --since 2024-01-01 --until 2024-02-01T12:00:00+01:00 \
         --destination bigquery:p.d --dry-run --config f.yaml --connectors dir --set k=v=w --set x= \
         --base-url http://localhost:8080/v1 --project p --deadline 1h30m --log-format json -vv",
    )
    .unwrap();
    let run = cli.run;
    assert_eq!(run.sources, ["acme"]);
    assert_eq!(run.streams, ["a", "b", "c"]);
    assert_eq!(run.since.unwrap().to_string(), "2024-01-01T00:00:00Z");
    assert_eq!(run.until.unwrap().to_string(), "2024-02-01T11:00:00Z");
    assert_eq!(run.destination.as_deref(), Some("bigquery:p.d"));
    assert!(run.dry_run && !run.full_refresh);
    assert_eq!(run.overrides.set, ["k=v=w", "x="]);
    assert_eq!(
        run.overrides.base_url.unwrap().as_str(),
        "http://localhost:8080/v1"
    );
    assert_eq!(run.deadline, Some(Duration::from_secs(5_400)));
    assert_eq!(cli.global.verbose, 2);
    assert_eq!(cli.global.log_format, LogFormat::Json);
    assert!(cli.command.is_none());
}

#[test]
fn commands_take_their_own_flags_and_the_global_ones_anywhere() {
    for line in [
        "drawoff -q check --source acme --stream a",
        "drawoff check -q --source acme --stream a",
    ] {
        let cli = parsed(line).unwrap();
        assert!(cli.global.quiet);
        let Some(Command::Check(check)) = cli.command else {
            panic!("{line} is no check");
        };
        assert_eq!(
            (check.source.as_str(), &check.streams[..]),
            ("acme", &["a".to_owned()][..])
        );
    }
    let cli = parsed("drawoff preview --source s --stream t --limit 3 --format ndjson").unwrap();
    let Some(Command::Preview(preview)) = cli.command else {
        panic!("no preview");
    };
    assert_eq!(preview.limit, 3);
    assert_eq!(preview.format, preview::PreviewFormat::Ndjson);
    assert!(parsed("drawoff connectors describe github").is_ok());
    assert!(parsed("drawoff lint a.yaml b.yaml").is_ok());
    assert!(parsed("drawoff schema --source s --stream t --infer --pages 2").is_ok());
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_can() {
    assert!(refused("drawoff").contains("`drawoff --source demo`"));
    let text = refused("drawoff --source x check");
    assert!(
        text.contains("`--source` must stand after `check`: drawoff check --source …"),
        "{text}"
    );
    assert!(refused("drawoff --source x --since yesterday").contains("2024-01-31T12:00:00Z"));
    assert!(refused("drawoff --source x --since 2024-02-01 --until 2024-02-01").contains("before"));
    assert!(refused("drawoff --source x --deadline 0s").contains("1h30m"));
    assert!(refused("drawoff --source x --base-url ftp://x").contains("http or https URL"));
    assert!(refused("drawoff --source x --full-refresh --since 2024-01-01").contains("--since"));
    assert!(refused("drawoff --source x --until 2024-01-01 --full-refresh").contains("--until"));
    assert!(refused("drawoff --source x --sorce y").contains("--source"));
    assert!(refused("drawoff chek").contains("check"));
    assert!(refused("drawoff preview --source s").contains("--stream"));
    assert!(refused("drawoff preview --source s --stream t --limit 0").contains("--limit"));
    assert!(refused("drawoff schema --source s --stream t --pages 2").contains("--infer"));
    assert!(refused("drawoff lint").contains("<FILE>"));
}

#[test]
fn a_source_that_is_named_goes_before_all() {
    let run = |line: &str| parsed(line).unwrap().run;
    assert!(run("drawoff --all").runs_all());
    assert!(run("drawoff --all --deadline 50m --since 2024-01-01").runs_several());
    let named = run("drawoff --all --source acme --stream tickets --set k=v");
    assert!(!named.runs_all() && !named.runs_several());
    let several = run("drawoff --source acme,shop --source acme");
    assert_eq!(several.names(), ["acme", "shop"]);
    assert!(!several.runs_all() && several.runs_several());
    assert!(!run("drawoff --source acme,acme --stream a").runs_several());
    for flag in ["--stream a", "--set k=v", "--base-url http://localhost:1"] {
        for sources in ["--all", "--source acme,shop"] {
            let text = refused(&format!("drawoff {sources} {flag}"));
            let (name, _) = flag.split_once(' ').unwrap();
            assert!(text.contains(&format!("`{name}`")), "{text}");
            assert!(text.contains("name the one with `--source`"), "{text}");
        }
    }
}

#[test]
fn short_help_is_short_and_grouped() {
    let text = help("drawoff -h");
    assert!(text.starts_with("Draws rows off third-party REST APIs and lands them in BigQuery\n"));
    assert!(
        text.contains("Usage: drawoff --source NAME [OPTIONS]\n       drawoff --all [OPTIONS]\n       drawoff COMMAND\n"),
        "{text}"
    );
    let headings: Vec<&str> = text
        .lines()
        .filter(|l| l.ends_with(':') && !l.starts_with(' '))
        .collect();
    assert_eq!(
        headings,
        [
            "Commands:",
            "Options:",
            "Source:",
            "Run:",
            "Files and logs:",
            "Google:",
        ],
        "{text}"
    );
    assert!(text.contains("Start with `drawoff --source demo`"));
    assert!(
        !text.contains("Exit codes:") && !text.contains("[env:"),
        "{text}"
    );
    assert!(text.lines().count() <= 60, "{text}");
    assert!(!text.contains("SourceOverrides"), "{text}");
}

#[test]
fn long_help_teaches() {
    let text = help("drawoff --help");
    assert_eq!(text.matches("DRAWOFF_<SOURCE>_<KEY> ").count(), 1, "{text}");
    assert!(text.contains("run of the source is at work"), "{text}");
    for part in [
        "Examples:\n",
        "Destinations:\n",
        "Exit codes:\n",
        "Environment:\n",
    ] {
        assert!(text.contains(part), "{part} is missing from\n{text}");
    }
    for flag in [
        "--source <NAME>",
        "--stream <STREAM>",
        "--since <DATE>",
        "--until <DATE>",
        "--full-refresh",
        "--destination <DESTINATION>",
        "--dry-run",
        "--config <FILE>",
        "--connectors <DIR>",
        "--set <KEY=VALUE>",
        "--base-url <URL>",
        "--project <PROJECT>",
        "--deadline <DURATION>",
        "--log-format <FORMAT>",
        "--verbose",
        "--quiet",
    ] {
        assert!(text.contains(flag), "{flag} is missing from\n{text}");
    }
    for variable in [
        "[env: DRAWOFF_SOURCE]",
        "[env: DRAWOFF_DESTINATION]",
        "[env: DRAWOFF_SINCE]",
    ] {
        assert!(
            text.contains(variable),
            "{variable} is missing from\n{text}"
        );
    }
}

#[test]
fn every_commands_help_says_what_it_is_for() {
    for (command, words) in [
        ("check", "store nothing"),
        ("preview", "first rows of a stream"),
        ("lint", "connector files"),
        ("schema", "BigQuery's JSON format"),
        ("connectors", "List the connectors"),
    ] {
        let text = help(&format!("drawoff {command} --help"));
        assert!(text.contains(words), "{text}");
        assert!(text.contains("Files and logs:"), "{text}");
        assert!(!text.contains("SourceOverrides"), "{text}");
    }
}

#[test]
fn log_lines_look_as_their_reader_needs_them() {
    let around = |terminal, cloud_run| Surroundings {
        terminal,
        colour: terminal,
        cloud_run,
    };
    let mut global = GlobalArgs::default();
    let text = |colour| log::Format::Text { colour };
    assert_eq!(global.format(around(true, false)), text(true));
    assert_eq!(global.format(around(false, false)), log::Format::Json);
    assert_eq!(global.format(around(true, true)), log::Format::Json);
    global.log_format = LogFormat::Text;
    assert_eq!(global.format(around(false, true)), text(false));
    global.log_format = LogFormat::Json;
    assert_eq!(global.format(around(true, false)), log::Format::Json);

    use tracing::Level;
    let own = |args: &[&str], format, level| {
        let cli = super::parse(args.iter().map(Into::into)).unwrap();
        cli.levels(format).would_enable("drawoff::pipeline", &level)
    };
    let json = log::Format::Json;
    let run = ["drawoff", "--source", "x"];
    assert!(own(&run, json, Level::INFO) && !own(&run, json, Level::DEBUG));
    assert!(own(&[&run[..], &["-v"]].concat(), json, Level::DEBUG));
    assert!(!own(&[&run[..], &["-q"]].concat(), json, Level::WARN));
    let levels = ["--log", "warn,drawoff::pipeline=trace"];
    assert!(own(&[&run[..], &levels].concat(), json, Level::TRACE));
    // A server's lines are all that there is to see of it.
    let serve = ["drawoff", "serve"];
    assert!(!own(&run, text(true), Level::INFO));
    assert!(own(&serve, text(true), Level::INFO) && !own(&serve, text(true), Level::DEBUG));
    assert!(own(&serve, json, Level::INFO) && !own(&serve, json, Level::DEBUG));
}

#[test]
fn help_shows_no_values_of_variables() {
    fn look(command: &clap::Command, seen: &mut usize) {
        for arg in command.get_arguments().filter(|a| a.get_env().is_some()) {
            assert!(
                arg.is_hide_env_values_set(),
                "{arg} of {}",
                command.get_name()
            );
            *seen += 1;
        }
        for sub in command.get_subcommands() {
            look(sub, seen);
        }
    }
    let command = command(false);
    let mut seen = 0;
    look(&command, &mut seen);
    assert!(seen > 10, "{seen}");
    // Those within another, too.
    assert!(
        command
            .find_subcommand("secrets")
            .and_then(|c| c.find_subcommand("set"))
            .is_some_and(|c| c.get_arguments().any(|a| a.get_env().is_some()))
    );
}

#[test]
fn secrets_are_named_by_source_and_key() {
    let line = "drawoff secrets set acme token --create --disable-previous --project p";
    let Some(Command::Secrets(secrets::SecretsCommand::Set(set))) = parsed(line).unwrap().command
    else {
        panic!("not set");
    };
    assert_eq!((set.source.as_str(), set.key.as_str()), ("acme", "token"));
    assert!(set.create && set.disable_previous);
    // A value never stands on the command line.
    assert!(refused("drawoff secrets set acme token s3cret").contains("unexpected argument"));
    assert!(parsed("drawoff secrets list acme").is_ok());
}
