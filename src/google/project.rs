//! Which project, where none is named.

use std::time::Duration;

use super::read::read;
use super::{Google, identity};
use crate::error::{Error, Result};

/// How long the metadata server may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Longest project id that is believed; Google's are at most 30 characters, old ones have a domain.
const LONGEST: usize = 200;

/// Setting, credentials file, its quota project, metadata server; the first that says something.
pub(super) async fn discover(google: &Google) -> Result<String> {
    if let Some(project) = &google.settings().project {
        return Ok(project.clone());
    }
    if let Some(file) = identity::file(google)? {
        for key in ["project_id", "quota_project_id"] {
            if let Some(project) = file.json[key].as_str().filter(|p| !p.is_empty()) {
                return Ok(project.to_owned());
            }
        }
    }
    if let Some(project) = &google.settings().quota_project {
        return Ok(project.clone());
    }
    if let Some(project) = from_metadata(google).await {
        return Ok(project);
    }
    Err(
        Error::config("no Google Cloud project is named and none could be found").hint(
            "set `GOOGLE_CLOUD_PROJECT`, or name the project where it is needed (`gcp://project/secret`, `bigquery:project.dataset`)",
        ),
    )
}

async fn from_metadata(google: &Google) -> Option<String> {
    let metadata = google.settings().metadata.as_ref()?;
    let mut answer = google
        .ask_metadata(metadata, &["project", "project-id"], &[])
        .timeout(PATIENCE)
        .send()
        .await
        .ok()?;
    let genuine = answer.status().is_success()
        && answer
            .headers()
            .get("metadata-flavor")
            .is_some_and(|v| v == "Google");
    if !genuine {
        return None;
    }
    let text = read(&mut answer, LONGEST).await.ok()?;
    let project = String::from_utf8(text).ok()?.trim().to_owned();
    (!project.is_empty()).then_some(project)
}
