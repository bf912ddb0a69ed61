//! Which dataset rows go to.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// `PROJECT.DATASET`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Project id.
    pub project: String,
    /// Dataset id.
    pub dataset: String,
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::config(format!("`{text}` is not a BigQuery dataset"))
                .hint("write `bigquery:PROJECT.DATASET`, as in `bigquery:my-project.raw_github`")
        };
        // A project of an old domain (`example.com:project`) has dots of its own.
        let (project, dataset) = text.rsplit_once('.').ok_or_else(bad)?;
        let project_fits = !project.is_empty()
            && (!project.contains('.') || project.contains(':'))
            && project
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '_'));
        let dataset_fits = (1..=1024).contains(&dataset.len())
            && dataset
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !project_fits || !dataset_fits {
            return Err(bad());
        }
        Ok(Self {
            project: project.to_owned(),
            dataset: dataset.to_owned(),
        })
    }
}

impl Target {
    /// Path of the list of tables in BigQuery's API.
    pub(super) fn tables_path(&self) -> [&str; 5] {
        [
            "projects",
            &self.project,
            "datasets",
            &self.dataset,
            "tables",
        ]
    }

    /// Path of a table's resource.
    pub(super) fn table_path<'a>(&'a self, table: &'a str) -> [&'a str; 6] {
        let [projects, project, datasets, dataset, tables] = self.tables_path();
        [projects, project, datasets, dataset, tables, table]
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.project, self.dataset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn targets() {
        let t: Target = "my-project.raw_github".parse().unwrap();
        assert_eq!(
            (t.project.as_str(), t.dataset.as_str()),
            ("my-project", "raw_github")
        );
        let t: Target = "example.com:p.d".parse().unwrap();
        assert_eq!(
            (t.project.as_str(), t.dataset.as_str()),
            ("example.com:p", "d")
        );
        for bad in ["", "p", ".d", "p.", "p.d-e", "p`.d", "p q.d"] {
            let e = bad.parse::<Target>().unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Config);
            assert!(e.find_hint().unwrap().contains("PROJECT.DATASET"));
        }
    }
}
