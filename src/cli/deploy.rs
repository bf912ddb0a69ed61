//! `drawoff deploy --print`: the commands that put a source on a schedule in Cloud Run, as a script. Nothing
//! is run here. What a value is goes into variables at the script's top, quoted; below them it is the
//! same for every source.

use std::fmt::Write as _;
use std::path::Path;

use clap::Args;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::args::{GlobalArgs, SourceOverrides};
use super::words::shell;
use crate::app::{Deployment, KeptSecret, Turnover};
use crate::config;
use crate::error::{Error, Result};
use crate::pipeline::shard::MOST_TASKS;
use crate::settings::Overrides;

/// What is the same in every script.
const BODY: &str = include_str!("deploy.sh");

/// Where in it the commands for secrets go, and those for the image.
const SECRETS: &str = "@SECRETS@\n";
const IMAGE: &str = "@IMAGE@\n";

/// Where the configured image has its settings, its working directory.
const IMAGE_FOLDER: &str = "/work";

/// Characters of a Cloud Run job's name, at most.
const JOB_NAME: usize = 63;
/// Characters of a service account's id, at most.
const ACCOUNT_ID: usize = 30;

/// What to deploy, and where.
#[derive(Clone, Debug, Args)]
pub struct DeployArgs {
    /// Print the commands: there is no other way to deploy, so that you see what is done in your
    /// project before it is
    #[arg(long)]
    pub print: bool,
    /// The source to deploy: one, which becomes a job with a schedule of its own
    #[arg(long, value_name = "NAME", env = "DRAWOFF_SOURCE", value_parser = one_source)]
    pub source: String,
    /// Google Cloud project to deploy to, in which secrets are looked up by name [default:
    /// drawoff.yaml's]
    #[arg(long, value_name = "PROJECT", env = config::PROJECT)]
    pub project: Option<String>,
    /// Region of Cloud Run and Cloud Scheduler, such as europe-west1
    #[arg(long, value_name = "REGION", value_parser = region)]
    pub region: String,
    /// Dataset that rows land in, DATASET or PROJECT.DATASET [default: that of the source's
    /// destination]
    #[arg(long, value_name = "DATASET")]
    pub dataset: Option<String>,
    /// When to run, as cron has it
    #[arg(long, value_name = "CRON", value_parser = cron, default_value = "0 3 * * *")]
    pub schedule: String,
    /// Time zone of the schedule
    #[arg(long, value_name = "ZONE", default_value = "Etc/UTC")]
    pub time_zone: String,
    /// Image of drawoff, already pushed [default: it is built from drawoff's sources]
    #[arg(long, value_name = "IMAGE", value_parser = image)]
    pub image: Option<String>,
    /// Tasks that share each run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_TASKS)), default_value_t = 1)]
    pub tasks: u32,
    /// Time that each attempt of a task has, at most 168h
    #[arg(long, value_name = "DURATION", value_parser = task_timeout, default_value = "6h")]
    pub task_timeout: String,
}

impl DeployArgs {
    /// # Errors
    /// Without `--print`: nothing is deployed from here.
    pub fn must_print(&self) -> Result<()> {
        match self.print {
            true => Ok(()),
            false => Err(Error::config("`drawoff deploy` changes nothing by itself: it prints the commands that do")
                .hint("add `--print`, read what it prints, and run that: `drawoff deploy --print … > deploy.sh`, `bash deploy.sh`")),
        }
    }

    /// What the command line says otherwise than the settings file.
    pub fn overrides(&self, global: &GlobalArgs) -> Overrides {
        let source = SourceOverrides {
            project: self.project.clone(),
            ..SourceOverrides::default()
        };
        source.settings(global, None, None)
    }
}

fn one_source(text: &str) -> Result<String, String> {
    match text.contains(',') {
        true => Err(
            "deploy one source at a time, each with a script of its own; docs/deploy.md says how \
             one job runs them all"
                .to_owned(),
        ),
        false => Ok(text.to_owned()),
    }
}

fn region(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    match text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(good) {
        true => Ok(text.to_owned()),
        false => Err("want a region like europe-west1".to_owned()),
    }
}

fn cron(text: &str) -> Result<String, String> {
    match text.split_whitespace().count() == 5 && !text.contains(char::is_control) {
        true => Ok(text.to_owned()),
        false => {
            Err("want five fields, minute, hour, day, month and weekday: 0 3 * * *".to_owned())
        }
    }
}

/// The name goes into a Dockerfile, where there is no quoting.
fn image(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_./:@".contains(c);
    match text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(good) {
        true => Ok(text.to_owned()),
        false => Err(
            "want an image's name like europe-docker.pkg.dev/project/repository/drawoff:0.1.0"
                .to_owned(),
        ),
    }
}

/// In Cloud Run's own words: whole numbers of one unit.
fn task_timeout(text: &str) -> Result<String, String> {
    let bad = || "want a time like 90s, 50m or 24h, at most 168h".to_owned();
    let (number, seconds) = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((number, "s")) => (number, 1),
        Some((number, "m")) => (number, 60),
        Some((number, "h")) => (number, 3_600),
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    match number.checked_mul(seconds) {
        Some(1..=604_800) => Ok(text.to_owned()),
        _ => Err(bad()),
    }
}

/// The script.
///
/// # Errors
/// [`crate::error::ErrorKind::Config`] for a project's id that can be none.
pub fn script(deployment: &Deployment, args: &DeployArgs) -> Result<String> {
    let Deployment {
        source, project, ..
    } = deployment;
    for id in [project, &deployment.target.project] {
        project_id(id)?;
    }
    let configured = !deployment.files.is_empty();
    let job = name("drawoff-", source, "", JOB_NAME);
    let registry = registry(project, &args.region);
    let base = match &args.image {
        Some(image) => image.clone(),
        None => format!("{registry}/drawoff:{}", env!("CARGO_PKG_VERSION")),
    };
    let (failed, not_started) = (failed(&job), not_started(&job));
    let tasks = args.tasks.to_string();
    let values = [
        ("SOURCE", source.as_str()),
        ("PROJECT", project),
        ("REGION", &args.region),
        ("DOMAIN", &accounts_domain(project)),
        ("JOB", &job),
        ("RUNNER", &name("drawoff-", source, "-run", ACCOUNT_ID)),
        ("STARTER", &name("drawoff-", source, "-start", ACCOUNT_ID)),
        ("DATASET_PROJECT", &deployment.target.project),
        ("DATASET", &deployment.target.dataset),
        ("LOCATION", deployment.location.as_deref().unwrap_or("US")),
        (
            "JOB_PROJECT",
            deployment
                .job_project
                .as_deref()
                .unwrap_or(&deployment.target.project),
        ),
        ("IMAGE", &base),
        ("ARGUMENTS", &list(&[format!("--source={source}")])),
        ("VARIABLES", &list(&variables(deployment))),
        ("TASKS", &tasks),
        ("TASK_TIMEOUT", &args.task_timeout),
        ("SCHEDULE", &args.schedule),
        ("TIME_ZONE", &args.time_zone),
        ("FAILED", &failed),
        ("NOT_STARTED", &not_started),
    ];
    let mut text = String::from("#!/usr/bin/env bash\n");
    let _ = writeln!(
        text,
        "# Puts a source of drawoff on a schedule in Cloud Run. Written by drawoff {}.\n\
         # Run it in the folder that it was written in, logged in with `gcloud auth login` and\n\
         # `gcloud auth application-default login`; it may be run again.\n\
         set -euo pipefail\n",
        env!("CARGO_PKG_VERSION")
    );
    for (name, value) in values {
        let _ = writeln!(text, "{name}={}", shell(value));
    }
    let secrets: String = deployment
        .secrets
        .iter()
        .map(|kept| secret(kept, deployment))
        .collect();
    let secrets = match secrets.is_empty() {
        true => "# It has none.\n".to_owned(),
        false => secrets,
    };
    let mut image = String::new();
    if args.image.is_none() || configured {
        image.push_str(&repository());
    }
    if args.image.is_none() {
        image.push_str(BUILD);
    }
    if configured {
        image.push_str(&derived(deployment, &registry, &job));
    }
    // What is put in is not searched for what stands for the next.
    let (accounts, rest) = BODY.split_once(SECRETS).unwrap_or((BODY, ""));
    let (dataset, job_commands) = rest.split_once(IMAGE).unwrap_or((rest, ""));
    for part in [accounts, &secrets, dataset, &image, job_commands] {
        text.push_str(part);
    }
    Ok(text)
}

/// Refuses what is no project's id before it becomes part of addresses.
fn project_id(id: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-.:".contains(c);
    match id.starts_with(|c: char| c.is_ascii_alphanumeric()) && id.chars().all(good) {
        true => Ok(()),
        false => Err(Error::config(format!("`{id}` is no project's id"))
            .hint("`gcloud projects list` shows those that there are")),
    }
}

/// Where the project's service accounts are: `example.com:project` is turned round.
fn accounts_domain(project: &str) -> String {
    match project.split_once(':') {
        Some((domain, id)) => format!("{id}.{domain}.iam.gserviceaccount.com"),
        None => format!("{project}.iam.gserviceaccount.com"),
    }
}

fn registry(project: &str, region: &str) -> String {
    format!(
        "{region}-docker.pkg.dev/{}/drawoff",
        project.replace(':', "/")
    )
}

/// A name that Google takes, made of the source's: lower case, digits and `-`. One that is too long ends
/// with a part of its hash, so that two of them stay apart.
fn name(before: &str, source: &str, after: &str, most: usize) -> String {
    let plain: String = source
        .chars()
        .map(|c| match c.is_ascii_alphanumeric() {
            true => c.to_ascii_lowercase(),
            false => '-',
        })
        .collect();
    let plain = plain.trim_matches('-');
    let room = most - before.len() - after.len();
    if !plain.is_empty() && plain.len() <= room {
        return format!("{before}{plain}{after}");
    }
    let hash = Sha256::digest(source.as_bytes());
    let hash: String = hash[..3].iter().map(|b| format!("{b:02x}")).collect();
    let begin = &plain[..plain.len().min(room - hash.len() - 1)];
    format!("{before}{}-{hash}{after}", begin.trim_end_matches('-'))
}

/// A list as gcloud's flags take it: with commas, or with another character where commas are in it.
fn list(items: &[String]) -> String {
    let clean = |c: &char| !items.iter().any(|item| item.contains(*c));
    // The last one is in no setting that a person typed.
    match ",@|#;~!\u{1f}".chars().find(clean) {
        Some(',') => items.join(","),
        other => {
            let between = String::from(other.unwrap_or('\u{1f}'));
            format!("^{between}^{}", items.join(&between))
        }
    }
}

/// What the job is told by its environment.
fn variables(deployment: &Deployment) -> Vec<String> {
    let target = &deployment.target;
    let mut all = vec![
        format!("{}={}", config::PROJECT, deployment.project),
        format!(
            "{}=bigquery:{}.{}",
            config::DESTINATION,
            target.project,
            target.dataset
        ),
    ];
    let optional = [
        (config::BIGQUERY_LOCATION, &deployment.location),
        (config::BIGQUERY_JOB_PROJECT, &deployment.job_project),
    ];
    for (name, value) in optional {
        all.extend(value.as_ref().map(|value| format!("{name}={value}")));
    }
    let given = deployment.variables.iter();
    all.extend(given.map(|(name, value)| format!("{name}={value}")));
    all
}

/// The commands for one secret.
fn secret(kept: &KeptSecret, deployment: &Deployment) -> String {
    let mut place = format!("{} {}", shell(&kept.project), shell(&kept.secret));
    if let Some(location) = &kept.location {
        let _ = write!(place, " {}", shell(&format!("--location={location}")));
    }
    let accessor = format!("grant_secret roles/secretmanager.secretAccessor {place}\n");
    if kept.optional {
        // Whoever wants it makes it.
        return format!("if secret_is_there {place}; then\n    {accessor}fi\n");
    }
    let mut create = format!(
        "gcloud secrets create {} --project={}",
        shell(&kept.secret),
        shell(&kept.project)
    );
    match &kept.location {
        Some(location) => {
            let _ = write!(create, " --location={}", shell(location));
        }
        None => create.push_str(" --replication-policy=automatic"),
    }
    let mut text = format!("secret_is_there {place} ||\n    {create}\n{accessor}");
    if kept.turnover != Turnover::ByHand {
        // A run stores the token that comes in place of the one it used, and disables that one.
        let role = "roles/secretmanager.secretVersionManager";
        let _ = writeln!(text, "grant_secret {role} {place}");
    }
    let fill = match kept.turnover {
        Turnover::ByLogin => {
            "drawoff auth login --source=\"$SOURCE\" --project=\"$PROJECT\"".to_owned()
        }
        _ => format!(
            "drawoff secrets set --project=\"$PROJECT\" -- \"$SOURCE\" {}",
            shell(&kept.key)
        ),
    };
    let mut here = String::new();
    for file in &deployment.files {
        let name = match file.there.to_str() {
            Some("connectors") => config::CONNECTORS,
            Some(crate::settings::FILE) => config::CONFIG,
            _ => continue,
        };
        let _ = write!(here, "{name}={} ", shell(&file.here.to_string_lossy()));
    }
    let _ = writeln!(text, "secret_has_value {place} ||\n    {here}{fill}");
    text
}

/// Where images are kept.
fn repository() -> String {
    "say \"the image\"\n\
     gcloud artifacts repositories describe drawoff --project=\"$PROJECT\" --location=\"$REGION\" >/dev/null 2>&1 ||\n    \
     gcloud artifacts repositories create drawoff --project=\"$PROJECT\" --location=\"$REGION\" \\\n        \
     --repository-format=docker --description=\"drawoff, and what it is configured by\"\n"
        .to_owned()
}

/// Builds the program's image, unless it is there. Its tag says what it was built from: the version alone
/// stays the same over many changes.
const BUILD: &str = "\
clone=${DRAWOFF_CLONE:-.}
if [ ! -f \"$clone/Dockerfile\" ] || ! grep -q '^name = \"drawoff\"' \"$clone/Cargo.toml\" 2>/dev/null; then
    echo \"$clone is not the folder of drawoff's sources: set DRAWOFF_CLONE to that, or name an image with --image\" >&2
    exit 2
fi
commit=$(git -C \"$clone\" rev-parse --short HEAD 2>/dev/null || true)
# What is in no commit has no name but the time.
if [ -z \"$commit\" ] || ! git -C \"$clone\" diff --quiet HEAD; then
    commit=${commit:+$commit-}$(date -u +%Y%m%d-%H%M%S)
fi
IMAGE=$IMAGE-$commit
if ! gcloud artifacts docker images describe \"$IMAGE\" --project=\"$PROJECT\" >/dev/null 2>&1; then
    build \"$clone\" \"$IMAGE\" --machine-type=e2-highcpu-8 --timeout=3600s
fi
";

/// Puts the settings into an image on top of the program's.
fn derived(deployment: &Deployment, registry: &str, job: &str) -> String {
    let mut text = String::from(
        "# On top of it the settings, which hold no secrets.\n\
         context=$(mktemp -d)\n\
         trap 'rm -rf \"$context\"' EXIT\n\
         mkdir \"$context/work\"\n",
    );
    for file in &deployment.files {
        let there = Path::new("work").join(&file.there);
        if let Some(folder) = file.there.parent().filter(|p| !p.as_os_str().is_empty()) {
            let folder = Path::new("work").join(folder);
            let _ = writeln!(
                text,
                "mkdir -p \"$context\"/{}",
                shell(&folder.to_string_lossy())
            );
        }
        let _ = writeln!(
            text,
            "cp -R -- {} \"$context\"/{}",
            shell(&file.here.to_string_lossy()),
            shell(&there.to_string_lossy())
        );
    }
    let mut files = deployment.files.iter();
    // In the image, so that whatever runs it finds them.
    let variable = match files.any(|f| f.there == Path::new("connectors")) {
        true => format!("ENV {}={IMAGE_FOLDER}/connectors\\n", config::CONNECTORS),
        false => String::new(),
    };
    let _ = write!(
        text,
        "# The account in the image is another than yours.\n\
         chmod -R a+rX \"$context\"\n\
         printf 'FROM %s\\nCOPY work {IMAGE_FOLDER}\\n{variable}' \"$IMAGE\" > \"$context/Dockerfile\"\n\
         IMAGE={}:$(date -u +%Y%m%d-%H%M%S)\n\
         build \"$context\" \"$IMAGE\"\n",
        shell(&format!("{registry}/{job}"))
    );
    text
}

/// The policy of the alert for executions that fail.
fn failed(job: &str) -> String {
    json!({
        "displayName": format!("{job} failed"),
        "combiner": "OR",
        "conditions": [{
            "displayName": "an execution failed",
            "conditionThreshold": {
                "filter": format!(
                    "resource.type = \"cloud_run_job\" AND resource.labels.job_name = \"{job}\" \
                     AND metric.type = \"run.googleapis.com/job/completed_execution_count\" \
                     AND metric.labels.result = \"failed\""
                ),
                "comparison": "COMPARISON_GT",
                "thresholdValue": 0,
                "duration": "0s",
                "aggregations": [{
                    "alignmentPeriod": "300s",
                    "perSeriesAligner": "ALIGN_DELTA",
                    "crossSeriesReducer": "REDUCE_SUM",
                }],
            },
        }],
        "documentation": {
            "mimeType": "text/markdown",
            "content": "An execution failed after all its retries. The log's last ERROR says why, and what to do; if it ended with 75, the last WARNING does.",
        },
    })
    .to_string()
}

/// The policy of the alert for a job that is not even started: it does not fail.
fn not_started(job: &str) -> String {
    json!({
        "displayName": format!("{job} was not started"),
        "combiner": "OR",
        "conditions": [{
            "displayName": "Cloud Scheduler could not start it",
            "conditionMatchedLog": {
                "filter": format!(
                    "resource.type = \"cloud_scheduler_job\" AND resource.labels.job_id = \"{job}\" \
                     AND severity >= ERROR"
                ),
            },
        }],
        // What a condition on log entries needs.
        "alertStrategy": {"notificationRateLimit": {"period": "3600s"}, "autoClose": "86400s"},
        "documentation": {
            "mimeType": "text/markdown",
            "content": "The entry says what came back. 403: the starting account lacks roles/run.invoker on the job.",
        },
    })
    .to_string()
}

#[cfg(test)]
#[path = "deploy_tests.rs"]
mod tests;
