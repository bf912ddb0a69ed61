//! `drawoff deploy --print`, and what is in `deploy/`: valid, and what it says it is. Scripts are run with
//! stand-ins that write down how they are called; where the real programs are installed, they are asked
//! whether they know the flags.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::binary::{Bench, Ran};
use crate::support::stand_ins::{Call, StandIns, commands, has, known_to_google};

const DEPLOY_PAGE: &str = "docs/deploy.md";
const TEN_COMMANDS: &str = "deploy/gcloud.md";
const EVENTS_PAGE: &str = "deploy/eventarc.md";
/// A part of a page.
const ALERTS: &str = "docs/operations.md#Alerts";

/// Pages whose commands are tried.
const PAGES: [&str; 4] = [DEPLOY_PAGE, TEN_COMMANDS, EVENTS_PAGE, ALERTS];

const ACME: &str = "title: Acme\nconfig:\n  companyid: {description: Organisation, secret: true}\n  \
     token: {description: Token, secret: true}\n  extra: {description: Extra, secret: true, optional: true}\n  \
     start: {description: First day, default: \"2020-01-01\"}\n\
     base_url: https://acme.example/v1\n\
     auth: {basic: {username: \"{{ config.companyid }}{{ config.extra }}\", password: \"{{ config.token }}\"}}\n\
     records: /data\nprimary_key: [id]\nstreams:\n  tickets: {params: {since: \"{{ config.start }}\"}}\n";

const SETTINGS: &str = "project: my-project\ndestination: bigquery:my-project.raw_acme\n\
     sources:\n  acme:\n    secrets: {token: \"gcp://other/europe-west4/acme-token@latest\"}\n";

fn acme() -> Bench {
    let bench = Bench::with("acme", ACME);
    bench.write("drawoff.yaml", SETTINGS);
    bench
}

const DEPLOY: [&str; 6] = [
    "deploy",
    "--print",
    "--source",
    "acme",
    "--region",
    "europe-west1",
];

async fn deploy(bench: &Bench, more: &[&str]) -> Ran {
    let args: Vec<&str> = DEPLOY.iter().chain(more).copied().collect();
    bench.run(&args).await
}

/// The calls that begin so, without these words.
fn calls<'a>(all: &'a [Call], begin: &str) -> Vec<&'a [String]> {
    let begin: Vec<&str> = begin.split(' ').collect();
    all.iter()
        .filter(|call| call.len() >= begin.len() && call.iter().zip(&begin).all(|(a, b)| a == b))
        .map(|call| &call[begin.len()..])
        .collect()
}

/// The one call that begins so and has this word.
#[track_caller]
fn the<'a>(all: &'a [Call], begin: &str, word: &str) -> &'a [String] {
    let found: Vec<_> = calls(all, begin)
        .into_iter()
        .filter(|call| call.iter().any(|w| w == word))
        .collect();
    assert_eq!(found.len(), 1, "`{begin} … {word}` in {all:#?}");
    found[0]
}

#[track_caller]
fn has_all(call: &[String], words: &[&str]) {
    for word in words {
        assert!(
            call.iter().any(|w| w == word),
            "`{word}` is not in {call:#?}"
        );
    }
}

/// A folder that looks like drawoff's sources.
fn clone(bench: &Bench) {
    bench.write("Dockerfile", "FROM scratch\n");
    bench.write("Cargo.toml", "[package]\nname = \"drawoff\"\n");
}

#[tokio::test]
async fn nothing_is_deployed_but_printed() {
    let bench = acme();
    let args: Vec<&str> = DEPLOY
        .iter()
        .filter(|a| **a != "--print")
        .copied()
        .collect();
    bench.run(&args).await.exits(2).complains("add `--print`");
}

#[tokio::test]
async fn a_new_project_gets_all_that_a_run_needs_and_no_more() {
    let bench = acme();
    clone(&bench);
    bench.write(
        "connectors/schemas/acme/tickets.json",
        r#"[{"name": "id", "type": "INTEGER"}]"#,
    );
    let script = deploy(&bench, &["--tasks", "4"]).await.exits(0).stdout;
    let stand_ins = StandIns::new();
    let all = stand_ins.run(&script, &bench.path(""), false);

    let runner = "--member=serviceAccount:drawoff-acme-run@my-project.iam.gserviceaccount.com";
    let starter = "--member=serviceAccount:drawoff-acme-start@my-project.iam.gserviceaccount.com";
    has_all(
        the(&all, "gcloud services enable", "run.googleapis.com"),
        &[
            "--project=my-project",
            "cloudscheduler.googleapis.com",
            "secretmanager.googleapis.com",
        ],
    );
    let made = calls(&all, "gcloud iam service-accounts create");
    assert_eq!(made.len(), 2);

    // Secrets: those that the connector needs, where they are, and readable for the job alone.
    let made = calls(&all, "gcloud secrets create");
    assert_eq!(
        made,
        [
            &[
                "companyid",
                "--project=my-project",
                "--replication-policy=automatic"
            ][..],
            &["acme-token", "--project=other", "--location=europe-west4"][..],
        ]
    );
    let granted = calls(&all, "gcloud secrets add-iam-policy-binding");
    assert_eq!(granted.len(), 2, "{granted:#?}");
    for call in granted {
        has_all(call, &[runner, "--role=roles/secretmanager.secretAccessor"]);
    }
    // Their values are asked for; none stands in a command.
    let asked = calls(&all, "drawoff secrets set");
    assert_eq!(
        asked,
        [
            &["--project=my-project", "--", "acme", "companyid"],
            &["--project=my-project", "--", "acme", "token"],
        ]
    );

    // The dataset, and no other.
    has_all(
        the(&all, "bq", "mk"),
        &["--location=US", "--force", "my-project:raw_acme"],
    );
    has_all(
        the(&all, "bq", "query"),
        &[
            // Where it is, not where it would have been made.
            "--location=EU",
            "GRANT `roles/bigquery.dataEditor` ON SCHEMA `my-project`.`raw_acme` TO \
             \"serviceAccount:drawoff-acme-run@my-project.iam.gserviceaccount.com\"",
        ],
    );
    let granted = calls(&all, "gcloud projects add-iam-policy-binding");
    assert_eq!(granted.len(), 1);
    has_all(
        granted[0],
        &["my-project", runner, "--role=roles/bigquery.jobUser"],
    );

    // The image, and on top of it the settings.
    let built = calls(&all, "gcloud builds submit");
    let base = format!(
        "europe-west1-docker.pkg.dev/my-project/drawoff/drawoff:{}-1a2b3c4",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(built.len(), 2);
    has_all(built[0], &[".", &format!("--tag={base}")]);
    let tag = built[1]
        .iter()
        .find_map(|w| w.strip_prefix("--tag="))
        .unwrap();
    assert!(
        tag.starts_with("europe-west1-docker.pkg.dev/my-project/drawoff/drawoff-acme:20"),
        "{tag}"
    );
    let context = &stand_ins.contexts()[1];
    let read = |path: &str| std::fs::read_to_string(context.join(path)).unwrap();
    assert_eq!(
        read("Dockerfile"),
        format!("FROM {base}\nCOPY work /work\nENV DRAWOFF_CONNECTORS=/work/connectors\n")
    );
    assert_eq!(read("work/drawoff.yaml"), SETTINGS);
    assert_eq!(read("work/connectors/acme.yaml"), ACME);
    assert!(read("work/connectors/schemas/acme/tickets.json").contains("INTEGER"));
    assert_eq!(stand_ins.leftovers(), 0);

    let job = the(&all, "gcloud run jobs deploy", "drawoff-acme");
    has_all(
        job,
        &[
            &format!("--image={tag}"),
            "--region=europe-west1",
            "--service-account=drawoff-acme-run@my-project.iam.gserviceaccount.com",
            "--args=--source=acme",
            "--tasks=4",
            "--parallelism=0",
            "--memory=512Mi",
            "--set-env-vars=DRAWOFF_PROJECT=my-project,DRAWOFF_DESTINATION=bigquery:my-project.raw_acme",
        ],
    );
    has_all(
        the(
            &all,
            "gcloud run jobs add-iam-policy-binding",
            "drawoff-acme",
        ),
        &[starter, "--role=roles/run.invoker"],
    );
    has_all(
        the(&all, "gcloud scheduler jobs create http", "drawoff-acme"),
        &[
            "--schedule=0 3 * * *",
            "--http-method=POST",
            "--uri=https://run.googleapis.com/v2/projects/my-project/locations/europe-west1/jobs/drawoff-acme:run",
            "--oauth-service-account-email=drawoff-acme-start@my-project.iam.gserviceaccount.com",
        ],
    );
    let alerts = calls(&all, "gcloud alpha monitoring policies create");
    let kinds = [
        ("conditionThreshold", "job_name = \"drawoff-acme\""),
        ("conditionMatchedLog", "job_id = \"drawoff-acme\""),
    ];
    assert_eq!(alerts.len(), kinds.len());
    for (alert, (condition, on)) in alerts.into_iter().zip(kinds) {
        let policy = alert
            .iter()
            .find_map(|w| w.strip_prefix("--policy="))
            .unwrap();
        let policy: Value = serde_json::from_str(policy).unwrap();
        let filter = &policy["conditions"][0][condition]["filter"];
        assert!(filter.as_str().unwrap().contains(on), "{policy}");
    }
}

#[tokio::test]
async fn only_drawoffs_sources_are_built_and_a_build_that_fails_ends_the_script() {
    let bench = acme();
    let script = deploy(&bench, &[]).await.exits(0).stdout;
    // A Dockerfile, but somebody else's.
    bench.write("Dockerfile", "FROM scratch\n");
    bench.write("Cargo.toml", "[package]\nname = \"other\"\n");
    let said = StandIns::new().fails(&script, &bench.path(""), 2);
    assert!(said.contains("set DRAWOFF_CLONE"), "{said}");
    clone(&bench);
    let stand_ins = StandIns::new();
    let failing = format!(
        "gcloud() {{ case \"$*\" in \"builds describe\"*) echo FAILURE ;; *) command gcloud \"$@\" ;; esac }}\n{script}"
    );
    let said = stand_ins.fails(&failing, &bench.path(""), 1);
    assert!(
        said.contains("build 5d0f did not end well (FAILURE)"),
        "{said}"
    );
}

#[tokio::test]
async fn sources_do_not_share_secrets_by_chance() {
    let bench = acme();
    let settings = |acme: &str, other: &str| {
        let text = format!(
            "project: my-project\ndestination: bigquery:my-project.raw\nsources:\n  acme: {acme}\n  \
             other: {{connector: acme{other}}}\n"
        );
        bench.write("drawoff.yaml", &text);
    };
    settings("", "");
    deploy(&bench, &[])
        .await
        .exits(2)
        .complains("sources `acme` and `other` would share Secret Manager's secret `companyid` of project `my-project`")
        .complains("token: \"gcp://my-project/acme-token\"");
    let named = |source: &str| {
        let keys = ["companyid", "token", "extra"];
        let places = keys.map(|key| format!("{key}: \"gcp://my-project/{source}-{key}\""));
        format!("secrets: {{{}}}", places.join(", "))
    };
    // One that is named is its own.
    settings(&format!("{{{}}}", named("acme")), "");
    deploy(&bench, &[]).await.exits(0);
    settings("", &format!(", {}", named("other")));
    deploy(&bench, &[]).await.exits(0);
}

#[tokio::test]
async fn bigquery_is_switched_on_where_its_jobs_run() {
    let bench = acme();
    bench.write(
        "drawoff.yaml",
        &format!("bigquery: {{job_project: jobs}}\n{SETTINGS}"),
    );
    clone(&bench);
    let script = deploy(&bench, &[]).await.exits(0).stdout;
    let all = StandIns::new().run(&script, &bench.path(""), false);
    has_all(
        the(&all, "gcloud services enable", "--project=jobs"),
        &["bigquery.googleapis.com"],
    );
}

#[tokio::test]
async fn a_second_time_makes_nothing_anew() {
    let bench = acme();
    clone(&bench);
    let script = deploy(&bench, &[]).await.exits(0).stdout;
    let all = StandIns::new().run(&script, &bench.path(""), true);
    let made: Vec<_> = all
        .iter()
        .filter(|call| call.iter().any(|word| word == "create" || word == "set"))
        .collect();
    assert!(made.is_empty(), "{made:#?}");
    the(&all, "gcloud scheduler jobs update http", "drawoff-acme");
    // One that can be done without is readable where it is there.
    assert_eq!(
        calls(&all, "gcloud secrets add-iam-policy-binding").len(),
        3
    );
    // The settings may have changed; the program has not.
    assert_eq!(calls(&all, "gcloud builds submit").len(), 1);
}

#[tokio::test]
async fn every_value_stays_one_argument() {
    let nasty = "it's; touch pwned #$(touch pwned)`touch pwned`\"$HOME\"\n, @|x";
    let bench = Bench::new();
    let folder = format!("{}/own", nasty.replace(['\n', '/'], ""));
    bench.write(&format!("{folder}/acme.yaml"), ACME);
    bench.write("drawoff.yaml", SETTINGS);
    let at = bench.path(&folder).display().to_string();
    let bench = bench
        .env("DRAWOFF_CONNECTORS", &at)
        .env("DRAWOFF_ACME_START", nasty);
    let image = "registry.example/drawoff:1";
    let script = deploy(
        &bench,
        &[
            "--image",
            image,
            "--time-zone",
            nasty,
            "--schedule",
            "$(touch pwned) * * *",
        ],
    )
    .await
    .exits(0)
    .stdout;
    let stand_ins = StandIns::new();
    let all = stand_ins.run(&script, &bench.path(""), false);
    let made: Vec<String> = bench
        .files()
        .iter()
        .map(|p| p.display().to_string())
        .collect();
    assert!(
        !made.iter().any(|path| path.ends_with("/pwned")),
        "{made:?}"
    );
    let job = the(&all, "gcloud run jobs deploy", "drawoff-acme");
    // The first character that is in none of them stands between them.
    let variables = job
        .iter()
        .find_map(|w| w.strip_prefix("--set-env-vars=^~^"))
        .unwrap();
    assert!(
        variables.ends_with(&format!("DRAWOFF_ACME_START={nasty}")),
        "{variables}"
    );
    let scheduled = the(&all, "gcloud scheduler jobs create http", "drawoff-acme");
    has_all(
        scheduled,
        &[
            &format!("--time-zone={nasty}"),
            "--schedule=$(touch pwned) * * *",
        ],
    );
    assert!(
        stand_ins.contexts()[0]
            .join("work/connectors/acme.yaml")
            .is_file()
    );
    // Only the settings are built: the program's image is there.
    assert_eq!(calls(&all, "gcloud builds submit").len(), 1);
}

#[tokio::test]
async fn a_refresh_token_may_be_replaced_by_runs() {
    let yaml = "title: Ledger\nconfig:\n  client_id: {description: Id}\n  \
         client_secret: {description: Secret, secret: true}\n  refresh_token: {description: Token, secret: true}\n\
         base_url: https://ledger.example\nauth:\n  oauth2:\n    refresh_token:\n      \
         token_url: https://ledger.example/token\n      client_id: \"{{ config.client_id }}\"\n      \
         client_secret: \"{{ config.client_secret }}\"\n      refresh_token: \"{{ config.refresh_token }}\"\nrecords: /data\nstreams:\n  entries:\n";
    let bench = Bench::with("ledger", yaml);
    let settings = |secrets: &str| {
        let text = format!(
            "project: p\ndestination: bigquery:p.raw\nsources:\n  ledger: {{config: {{client_id: me}}, secrets: {secrets}}}\n"
        );
        bench.write("drawoff.yaml", &text);
    };
    let args = [
        "deploy",
        "--print",
        "--source",
        "ledger",
        "--region",
        "europe-west1",
        "--image",
        "i.example/d:1",
    ];
    settings("{}");
    bench
        .run(&args)
        .await
        .exits(2)
        .complains("nothing says where refresh token `refresh_token` of source `ledger` is kept");
    settings("{refresh_token: \"gcp://p/ledger-refresh\"}");
    let script = bench.run(&args).await.exits(0).stdout;
    let all = StandIns::new().run(&script, &bench.path(""), false);
    let role = "--role=roles/secretmanager.secretVersionManager";
    let granted = the(&all, "gcloud secrets add-iam-policy-binding", role);
    assert_eq!(granted[0], "ledger-refresh");
}

#[tokio::test]
async fn what_could_not_run_there_is_refused() {
    let bench = acme();
    let refused = async |settings: &str, more: &[&str], says: &str| {
        bench.write("drawoff.yaml", settings);
        deploy(&bench, more).await.exits(2).complains(says);
    };
    let here = "project: p\n";
    refused(
        here,
        &[],
        "rows of source `acme` would land in a file, which goes with the container",
    )
    .await;
    refused(
        "destination: bigquery:p.d\n",
        &[],
        "nothing says which project",
    )
    .await;
    refused(
        here,
        &["--dataset", "raw; DROP"],
        "is not a BigQuery dataset",
    )
    .await;
    refused(
        here,
        &["--dataset", "other.raw", "--project", "p'x"],
        "no project's id",
    )
    .await;
    refused(
        here,
        &["--dataset", "raw", "--image", "a\nRUN x"],
        "want an image's name",
    )
    .await;
    refused(
        here,
        &["--dataset", "raw", "--schedule", "daily"],
        "want five fields",
    )
    .await;
    refused(
        here,
        &["--dataset", "raw", "--task-timeout", "8d"],
        "at most 168h",
    )
    .await;
    refused(here, &["--dataset", "raw", "--tasks", "0"], "--tasks").await;
    bench
        .run(&["deploy", "--print", "--source", "a,b", "--region", "r"])
        .await
        .exits(2)
        .complains("deploy one source at a time");
    let only_here = "project: p\nsources: {acme: {secrets: {token: \"env://ACME\"}}}\n";
    refused(
        only_here,
        &["--dataset", "raw"],
        "`env://ACME`, which is only on this machine",
    )
    .await;
    let elsewhere = "project: p\nsources: {acme: {ca_file: /etc/ssl/ca.pem}}\n";
    refused(
        elsewhere,
        &["--dataset", "raw"],
        "which is not beside `drawoff.yaml`",
    )
    .await;
    // And this could.
    bench.write("drawoff.yaml", here);
    deploy(&bench, &["--dataset", "other.raw"])
        .await
        .exits(0)
        .says("DATASET_PROJECT=other\n");
}

#[tokio::test]
async fn google_knows_every_command_of_the_script_and_the_pages() {
    let bench = acme();
    clone(&bench);
    let script = deploy(&bench, &[]).await.exits(0).stdout;
    let stand_ins = StandIns::new();
    let mut all = stand_ins.run(&script, &bench.path(""), false);
    all.extend(stand_ins.run(&script, &bench.path(""), true));
    for page in PAGES {
        all.extend(run_page(page).1);
    }
    tokio::task::spawn_blocking(move || known_to_google(&all))
        .await
        .unwrap();
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file's text, or that of its part `FILE#HEADING`.
fn page(path: &str) -> String {
    let (path, heading) = path.split_once('#').unwrap_or((path, ""));
    let text = std::fs::read_to_string(root().join(path)).unwrap();
    if heading.is_empty() {
        return text;
    }
    let begin = format!("\n## {heading}\n");
    let part = text.split_once(&begin).unwrap().1;
    part.split("\n## ").next().unwrap().to_owned()
}

#[test]
fn terraform_is_written_as_terraform_writes_it() {
    if !has("terraform") {
        return;
    }
    let output = Command::new("terraform")
        .args(["fmt", "-check", "-diff", "-recursive", "deploy/terraform"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs every command of a page, in a folder that looks like drawoff's sources; the folder, and the calls.
fn run_page(path: &str) -> (Bench, Vec<Call>) {
    let bench = Bench::new();
    clone(&bench);
    if path == ALERTS {
        let query = page(path);
        let query = query.split_once("```sql\n").unwrap().1;
        bench.write("freshness.sql", query.split_once("```").unwrap().0);
    }
    // Somebody reads; nobody is there to.
    let script = format!(
        "set -eu\nless() {{ cat \"$1\"; }}\nmkdir -p acme\n{}",
        commands(&page(path))
    );
    let all = StandIns::new().run(&script, &bench.path(""), false);
    (bench, all)
}

#[test]
fn the_page_goes_from_a_clone_to_a_job() {
    let all = run_page(DEPLOY_PAGE).1;
    let printed = calls(&all, "drawoff deploy");
    assert_eq!(printed.len(), 1);
    has_all(
        printed[0],
        &["--print", "acme", "my-project", "europe-west1", "0 3 * * *"],
    );
    the(&all, "gcloud run jobs execute", "--tasks=8");
    the(&all, "kubectl create", "configmap");
}

/// What a call is told, but for the image, whose name has the time in it where the script builds it.
fn told(call: &[String]) -> BTreeSet<&str> {
    let words = call.iter().map(String::as_str);
    words.filter(|w| !w.starts_with("--image=")).collect()
}

/// The policies that a page or a script makes, without what is said to people.
fn policies(all: &[Call]) -> Vec<Value> {
    let made = calls(all, "gcloud alpha monitoring policies create");
    let policy = |call: &[String]| {
        let text = call.iter().find_map(|w| w.strip_prefix("--policy="));
        let mut policy: Value = serde_json::from_str(text.unwrap()).unwrap();
        policy.as_object_mut().unwrap().remove("documentation");
        policy
    };
    made.into_iter().map(policy).collect()
}

#[tokio::test]
async fn the_ten_commands_say_what_the_script_says() {
    let all = run_page(TEN_COMMANDS).1;
    assert_eq!(calls(&all, "gcloud iam service-accounts create").len(), 2);
    assert_eq!(calls(&all, "drawoff secrets set").len(), 2);
    let bench = acme();
    clone(&bench);
    let script = deploy(&bench, &[]).await.exits(0).stdout;
    let scripts = StandIns::new().run(&script, &bench.path(""), false);
    for begin in [
        "gcloud run jobs deploy",
        "gcloud run jobs add-iam-policy-binding",
        "gcloud scheduler jobs create http",
    ] {
        assert_eq!(
            told(the(&all, begin, "drawoff-acme")),
            told(the(&scripts, begin, "drawoff-acme")),
            "{begin}"
        );
    }
    let made = policies(&all);
    assert_eq!(made.len(), 2);
    assert_eq!(made, policies(&scripts));
    // The service's schedule tries as often.
    has_all(
        the(
            &all,
            "gcloud scheduler jobs create http",
            "drawoff-acme-service",
        ),
        &["--max-retry-attempts=3"],
    );
}

#[test]
fn the_alerts_are_policies_and_the_last_knows_the_query() {
    let (bench, all) = run_page(ALERTS);
    let made = calls(&all, "gcloud alpha monitoring policies create");
    let mut filters = Vec::new();
    for call in &made {
        has_all(call, &["--project=my-project"]);
        let file = call
            .iter()
            .find_map(|w| w.strip_prefix("--policy-from-file="));
        let text = std::fs::read_to_string(bench.path(file.unwrap())).unwrap();
        let policy: Value = serde_json::from_str(&text).unwrap();
        let condition = &policy["conditions"][0];
        let filter = ["conditionThreshold", "conditionMatchedLog"]
            .into_iter()
            .find_map(|kind| condition[kind]["filter"].as_str());
        filters.push(filter.unwrap().to_owned());
    }
    for (filter, knows) in filters.iter().zip([
        "resource.labels.job_name = \"drawoff-acme\"",
        "jsonPayload.\"@type\" : \"ReportedErrorEvent\"",
        "resource.labels.config_id = \"5f3a-1\"",
    ]) {
        assert!(filter.contains(knows), "{filter}");
    }
    assert_eq!(filters.len(), 3);
    let query = the(&all, "bq", "mk")
        .iter()
        .find_map(|w| w.strip_prefix("--params="));
    let query: Value = serde_json::from_str(query.unwrap()).unwrap();
    assert!(query["query"].as_str().unwrap().contains("_drawoff_runs"));
}

#[test]
fn the_page_of_events_names_what_is_run_for_those_that_do_not_say() {
    let all = run_page(EVENTS_PAGE).1;
    has_all(
        the(&all, "gcloud run services update", "drawoff-acme"),
        &["--update-env-vars=DRAWOFF_SOURCE=acme"],
    );
    assert_eq!(calls(&all, "gcloud eventarc triggers create").len(), 2);
}

#[tokio::test]
async fn what_the_page_deploys_can_be_deployed() {
    let text = page(DEPLOY_PAGE);
    let file = |name: &str| {
        let begin = format!("cat > {name} <<");
        let rest = text
            .split_once(&begin)
            .unwrap()
            .1
            .split_once('\n')
            .unwrap()
            .1;
        rest.split_once("\nYAML\n")
            .unwrap()
            .0
            .replace("$PROJECT", "my-project")
    };
    let bench = Bench::with("acme", &file("connectors/acme.yaml"));
    bench.write("drawoff.yaml", &file("drawoff.yaml"));
    let line = text
        .lines()
        .find(|l| l.starts_with("drawoff deploy --print"))
        .unwrap();
    let line = line
        .split_once(" > ")
        .unwrap()
        .0
        .replace("\"$PROJECT\"", "p")
        .replace("\"$REGION\"", "r");
    let line = line.replace("\"0 3 * * *\"", "0_3_*_*_*");
    let args: Vec<String> = line
        .split(' ')
        .skip(1)
        .map(|w| w.replace('_', " "))
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    bench
        .run(&args)
        .await
        .exits(0)
        .says("JOB=drawoff-acme\n")
        .says("LOCATION=EU\n");
}

#[test]
fn the_kubernetes_job_counts_its_tasks_and_knows_the_exit_codes() {
    let yaml = page("deploy/kubernetes/job.yaml");
    let after = |key: &str| {
        let rest = yaml
            .split_once(key)
            .unwrap_or_else(|| panic!("no `{key}`"))
            .1;
        rest.split_whitespace()
            .next()
            .unwrap()
            .trim_matches('"')
            .to_owned()
    };
    assert_eq!(after("completionMode:"), "Indexed");
    assert_eq!(after("completions:"), after("parallelism:"));
    assert_eq!(
        after("completions:"),
        after("name: DRAWOFF_TASK_COUNT\n              value:")
    );
    for (action, code) in [("FailJob", "[2]"), ("FailIndex", "[1]")] {
        let rule = yaml.split_once(&format!("action: {action}")).unwrap().1;
        assert_eq!(
            rule.split_once("values: ").unwrap().1.lines().next(),
            Some(code)
        );
    }
    assert!(yaml.contains("fieldPath: metadata.labels['batch.kubernetes.io/job-name']"));
    assert!(yaml.contains("readOnlyRootFilesystem: true") && yaml.contains("runAsUser: 65532"));
    assert!(
        after("terminationGracePeriodSeconds:")
            .parse::<u32>()
            .unwrap()
            > 10
    );
}
