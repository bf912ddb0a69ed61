//! Where connectors come from: those embedded in the binary, and a folder of the user's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use include_dir::{Dir, include_dir};

use super::model::Connector;
use super::syntax::{self, Lowered, Schemas};
use super::template::Template;
use crate::error::{Error, ErrorKind, Result};
use crate::schema::TableSchema;
use crate::yaml::Finding;
use crate::yaml::finding::suggest;

static CONNECTORS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/connectors");
static SCHEMAS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/schemas");

/// The connectors that can be named.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    folder: Option<PathBuf>,
}

/// A connector with what a source needs beside it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The connector, its streams' schemas filled in.
    pub connector: Connector,
    /// The base URL at the top of its file, which a source may replace.
    pub base_url: Option<Template>,
    /// Findings that do not keep it from being used.
    pub warnings: Vec<Finding>,
}

/// A connector's text and where it came from.
struct File {
    label: String,
    text: String,
    schemas: BTreeMap<String, (String, String)>,
}

impl Catalog {
    /// The embedded connectors, and those of `folder` before them: `folder/NAME.yaml`, with schemas
    /// in `folder/schemas/NAME/` or `folder/../schemas/NAME/`.
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// The folder that is searched before the embedded connectors.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Every connector's name, sorted.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = CONNECTORS
            .files()
            .filter_map(|f| connector_name(f.path()))
            .collect();
        if let Some(folder) = &self.folder {
            let listed = std::fs::read_dir(folder).map_err(|e| unreadable(folder, e))?;
            for entry in listed {
                let entry = entry.map_err(|e| unreadable(folder, e))?;
                names.extend(connector_name(&entry.path()));
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// The connector of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: no such connector (lists the known ones), or everything that is wrong
    /// with its file, each with file, line and column.
    pub fn load(&self, name: &str) -> Result<Loaded> {
        let file = self.find(name)?;
        let (lowered, findings) = read(name, &file)?;
        match lowered {
            Some(Lowered {
                connector,
                base_url,
            }) => Ok(Loaded {
                connector,
                base_url,
                warnings: findings.into_sorted(),
            }),
            None => Err(findings.into_error().unwrap_or_else(|| {
                Error::new(
                    ErrorKind::Bug,
                    format!("connector `{name}` was refused without a reason"),
                )
            })),
        }
    }

    /// What is wrong with a known connector.
    ///
    /// # Errors
    /// As [`Self::load`] for a connector that does not exist or cannot be read.
    pub fn lint(&self, name: &str) -> Result<Vec<Finding>> {
        lint(name, &self.find(name)?)
    }

    fn find(&self, name: &str) -> Result<File> {
        if let Some(folder) = &self.folder {
            for ending in ["yaml", "yml"] {
                let path = folder.join(format!("{name}.{ending}"));
                // A name with a separator in it would leave the folder.
                if connector_name(&path).as_deref() == Some(name) && path.is_file() {
                    return on_disk(&path, name);
                }
            }
        }
        let path = format!("{name}.yaml");
        match CONNECTORS.get_file(&path).and_then(|f| f.contents_utf8()) {
            Some(text) => Ok(File {
                label: format!("connectors/{path}"),
                text: text.to_owned(),
                schemas: embedded_schemas(name),
            }),
            None => Err(self.unknown(name)),
        }
    }

    fn unknown(&self, name: &str) -> Error {
        let names = match self.names() {
            Ok(names) => names,
            Err(e) => return e,
        };
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let near = suggest(name, &known);
        let own = match &self.folder {
            Some(folder) => format!(
                "; a connector of your own is `{}`",
                folder.join(format!("{name}.yaml")).display()
            ),
            None => "; a connector of your own is a file `NAME.yaml` in a folder named with `--connectors`".to_owned(),
        };
        Error::config(format!(
            "there is no connector `{name}`; there are `{}`",
            known.join("`, `")
        ))
        .hint(match near.starts_with("did") {
            true => near,
            false => format!("name one of them{own}"),
        })
    }
}

/// What is wrong with a connector file, errors and warnings, in the file's order.
///
/// # Errors
/// [`ErrorKind::Config`] when the file cannot be read at all.
pub fn lint_file(path: &Path) -> Result<Vec<Finding>> {
    let name = path
        .file_stem()
        .and_then(|s| s.to_str())
        .unwrap_or("connector");
    lint(name, &on_disk(path, name)?)
}

fn lint(name: &str, file: &File) -> Result<Vec<Finding>> {
    let (schemas, problems) = parse_schemas(file);
    let (_, mut findings) = syntax::read(name, &file.label, &file.text, &schemas);
    for (file, error) in problems {
        let hint = error.find_hint().map(str::to_owned);
        findings.error_in(file, error.to_string(), hint);
    }
    Ok(findings.into_sorted())
}

fn read(name: &str, file: &File) -> Result<(Option<Lowered>, crate::yaml::Findings)> {
    let (schemas, problems) = parse_schemas(file);
    if let Some((_, error)) = problems.into_iter().next() {
        return Err(error);
    }
    Ok(syntax::read(name, &file.label, &file.text, &schemas))
}

fn parse_schemas(file: &File) -> (Schemas, Vec<(String, Error)>) {
    let mut schemas = Schemas::new();
    let mut problems = Vec::new();
    for (stream, (label, text)) in &file.schemas {
        // `drawoff schema --infer > FILE` finds the file that the shell has just emptied for it.
        if text.trim().is_empty() {
            continue;
        }
        match TableSchema::from_json(text, label) {
            Ok(schema) => {
                schemas.insert(stream.clone(), (label.clone(), schema));
            }
            Err(e) => problems.push((label.clone(), e)),
        }
    }
    (schemas, problems)
}

fn embedded_schemas(name: &str) -> BTreeMap<String, (String, String)> {
    let Some(folder) = SCHEMAS.get_dir(name) else {
        return BTreeMap::new();
    };
    folder
        .files()
        .filter(|f| f.path().extension().is_some_and(|e| e == "json"))
        .filter_map(|f| {
            let stream = f.path().file_stem()?.to_str()?.to_owned();
            let label = format!("schemas/{}", f.path().display());
            Some((stream, (label, f.contents_utf8()?.to_owned())))
        })
        .collect()
}

fn on_disk(path: &Path, name: &str) -> Result<File> {
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(path, e))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let places = [
        folder.join("schemas").join(name),
        folder.join("..").join("schemas").join(name),
    ];
    let mut schemas = BTreeMap::new();
    if let Some(place) = places.iter().find(|p| p.is_dir()) {
        let place = tidy(place);
        let listed = std::fs::read_dir(&place).map_err(|e| unreadable(&place, e))?;
        for entry in listed {
            let path = entry.map_err(|e| unreadable(&place, e))?.path();
            let stream = path.file_stem().and_then(|s| s.to_str());
            if let Some(stream) = stream
                && path.extension().is_some_and(|e| e == "json")
            {
                let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?;
                schemas.insert(stream.to_owned(), (path.display().to_string(), text));
            }
        }
    }
    Ok(File {
        label: path.display().to_string(),
        text,
        schemas,
    })
}

/// `a/connectors/../schemas` as `a/schemas`.
fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        let named = matches!(
            tidy.components().next_back(),
            Some(std::path::Component::Normal(_))
        );
        if part == std::path::Component::ParentDir && named {
            tidy.pop();
        } else {
            tidy.push(part);
        }
    }
    tidy
}

fn connector_name(path: &Path) -> Option<String> {
    let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
    yaml.then(|| path.file_stem()?.to_str().map(str::to_owned))
        .flatten()
}

fn unreadable(path: &Path, e: std::io::Error) -> Error {
    Error::config(format!("could not read `{}`: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_lists_the_known_and_names_the_nearest() {
        let e = Catalog::default().load("gihub").unwrap_err();
        assert!(e.to_string().contains("`github`"), "{e}");
        assert_eq!(e.find_hint(), Some("did you mean `github`?"));
        let e = Catalog::default().load("../Cargo").unwrap_err();
        assert!(e.to_string().starts_with("there is no connector"), "{e}");
    }

    #[test]
    fn a_folder_comes_before_the_embedded_with_schemas_beside_or_above() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("connectors");
        std::fs::create_dir_all(&own).unwrap();
        let text = "title: Own\nbase_url: https://example.com\nstreams: {things: }\n";
        std::fs::write(own.join("github.yaml"), text).unwrap();
        let catalog = Catalog::new(Some(own.clone()));
        assert_eq!(catalog.load("github").unwrap().connector.title, "Own");

        let column = |name: &str| format!(r#"[{{"name":"{name}","type":"STRING"}}]"#);
        let write = |folder: &Path, name: &str| {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join("things.json"), column(name)).unwrap();
        };
        let first = |catalog: &Catalog| {
            let loaded = catalog.load("github").unwrap();
            loaded.connector.streams[0].schema.clone().unwrap().columns[0]
                .name
                .clone()
        };
        write(&root.path().join("schemas/github"), "above");
        assert_eq!(first(&catalog), "above");
        write(&own.join("schemas/github"), "beside");
        assert_eq!(first(&catalog), "beside");
        assert!(catalog.names().unwrap().contains(&"github".to_owned()));
    }
}
