//! `connectors/github.yaml` and its schemas against a GitHub that nobody here wrote.

use std::collections::BTreeMap;
use std::sync::Arc;

use drawoff::config::Environment;
use drawoff::connector::template::{ConfigValue, Scope};
use drawoff::connector::{Auth, Locator, Step, Stream};
use drawoff::schema::{Column, ColumnType, Mode};
use drawoff::secrets::resolve::Secrets;
use drawoff::settings::{Overrides, Settings, SourceConfig};
use serde_json::Value;

use crate::support::github::{GitHub, ISSUES, OWNER, REPOSITORIES, TOKEN};

fn source(github: &GitHub, environment: &Environment) -> SourceConfig {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "sources:\n  github:\n    base_url: {}\n    config: {{owner: {OWNER}, owner_type: users}}\n",
        github.url
    );
    std::fs::write(folder.path().join("drawoff.yaml"), text).unwrap();
    Settings::read(Overrides::default(), environment.clone(), folder.path())
        .unwrap()
        .source("github")
        .unwrap()
}

/// Path and query of the first page, filled in as the engine does.
fn first_page(stream: &Stream, scope: &Scope) -> String {
    let render = |t: &drawoff::connector::template::Template| t.render(scope).unwrap();
    let mut url = url::Url::parse(&render(&stream.base_url)).unwrap();
    url.set_path(&render(&stream.request.path));
    {
        let mut query = url.query_pairs_mut();
        for (name, value) in &stream.request.params {
            query.append_pair(name, &render(value));
        }
        let size = stream.pagination.size.as_ref().unwrap();
        query.append_pair(size.param.as_ref().unwrap(), &size.value.to_string());
    }
    format!("{}?{}", url.path(), url.query().unwrap())
}

fn fits(value: &Value, column: &Column) -> bool {
    match column.kind {
        ColumnType::String => value.is_string(),
        ColumnType::Int64 => value.is_i64(),
        ColumnType::Bool => value.is_boolean(),
        ColumnType::Timestamp => value
            .as_str()
            .is_some_and(|v| v.parse::<jiff::Timestamp>().is_ok()),
        ColumnType::Json => true,
        ColumnType::Record => value.is_object(),
        other => panic!("no column of the connector is {other:?}"),
    }
}

/// Checks a record's values, and counts the columns that were seen with one.
fn check(record: &Value, columns: &[Column], path: &str, seen: &mut BTreeMap<String, usize>) {
    for column in columns {
        let path = format!("{path}.{}", column.name);
        let count = seen.entry(path.clone()).or_default();
        let value = match record.get(&column.name) {
            None | Some(Value::Null) => {
                assert_ne!(column.mode, Mode::Required, "{path} is missing");
                continue;
            }
            Some(value) => value,
        };
        let values = match column.mode {
            Mode::Repeated => value
                .as_array()
                .unwrap_or_else(|| panic!("{path} is no list")),
            _ => std::slice::from_ref(value),
        };
        *count += values.len();
        for value in values {
            assert!(
                fits(value, column),
                "{path} is {}, not {value}",
                column.kind.sql()
            );
            check(value, &column.fields, &path, seen);
        }
    }
}

#[tokio::test]
async fn paths_pages_and_columns_fit_a_real_server() {
    let github = GitHub::start().await;
    let environment = Environment::of([("DRAWOFF_GITHUB_TOKEN", TOKEN)]);
    let source = source(&github, &environment);
    let values = source
        .values(&Secrets::new(environment, None))
        .await
        .unwrap();
    let [Auth::Bearer { token }] = source.connector.auths.as_slice() else {
        panic!("{:?}", source.connector.auths)
    };
    let mut scope = Scope {
        config: Arc::clone(&values.config),
        ..Scope::default()
    };
    assert_eq!(token.render(&scope).unwrap(), TOKEN);
    assert!(matches!(values.config["token"], ConfigValue::Secret(_)));

    let mut rows: BTreeMap<String, usize> = BTreeMap::new();
    for stream in &source.connector.streams {
        assert_eq!(stream.pagination.step, Step::Link { rel: "next".into() });
        assert_eq!(stream.pagination.total, None::<Locator>);
        let schema = stream.schema.as_ref().unwrap();
        let mut seen = BTreeMap::new();
        let parents: &[&str] = match stream.parent {
            None => &[""],
            Some(_) => &REPOSITORIES,
        };
        for repository in parents {
            scope.parent = Some(BTreeMap::from([
                ("owner.login".to_owned(), OWNER.to_owned()),
                ("name".to_owned(), (*repository).to_owned()),
            ]));
            let mut next = Some(first_page(stream, &scope));
            while let Some(path) = next {
                let page = github.get(&path).await;
                if stream.request.ignore_status.contains(&page.status) {
                    break;
                }
                assert_eq!(page.status, 200, "{path}");
                assert!(!page.header("x-ratelimit-remaining").is_empty());
                for record in page.json().as_array().unwrap() {
                    check(record, &schema.columns, &stream.name, &mut seen);
                    *rows.entry(stream.name.clone()).or_default() += 1;
                }
                next = page.header("link").split(", ").find_map(|link| {
                    let url = link.strip_suffix(r#">; rel="next""#)?.strip_prefix('<')?;
                    url.strip_prefix(github.url.as_str()).map(str::to_owned)
                });
            }
        }
        let columns: Vec<String> = schema
            .columns
            .iter()
            .map(|c| format!("{}.{}", stream.name, c.name))
            .collect();
        let filled = columns
            .iter()
            .filter(|c| seen.get(*c).is_some_and(|n| *n > 0));
        if rows.contains_key(&stream.name) {
            // A misspelt column would never have a value; some have none for a good reason.
            assert!(
                filled.count() * 2 > columns.len(),
                "{}: {seen:?}",
                stream.name
            );
        }
    }
    let counts = |name: &str| rows.get(name).copied().unwrap_or_default();
    assert_eq!(counts("repositories"), REPOSITORIES.len());
    assert_eq!(counts("issues"), ISSUES + 1);
    assert_eq!(counts("commits"), 3);
    for stream in ["pull_requests", "releases", "labels", "milestones"] {
        assert_eq!(counts(stream), 1, "{stream}");
    }
    // The server does not serve this list; the connector takes its 404 for "nothing here".
    assert_eq!(counts("issue_comments"), 0);
}
