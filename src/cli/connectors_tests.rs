use std::collections::BTreeMap;
use std::num::NonZeroU32;

use http::Method;

use super::*;
use crate::connector::template::Template;
use crate::connector::{
    ConfigKey, Incremental, Locator, OAuth, PageSize, Parent, RequestTemplate, Table, TimeFormat,
    TokenBody,
};
use crate::schema::landing::{Disposition, PartitionUnit, Partitioning};
use crate::schema::{Column, ColumnType, TableSchema};

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

fn stream(name: &str, path: &str) -> Stream {
    Stream {
        name: name.to_owned(),
        description: String::new(),
        base_url: template("https://api.acme.example"),
        request: RequestTemplate {
            method: Method::GET,
            path: template(path),
            params: Vec::new(),
            headers: Vec::new(),
            body: None,
            repeatable: true,
            ignore_status: Vec::new(),
            retry_status: Vec::new(),
        },
        auth: 0,
        parent: None,
        pagination: Pagination {
            step: Step::Page {
                param: "page".into(),
                first: 1,
                next: None,
            },
            size: Some(PageSize {
                param: Some("per_page".into()),
                value: 100,
            }),
            has_more: None,
            total_pages: None,
            total: None,
            read_ahead: false,
            stop_after_empty_pages: 1,
            stop_on_short_page: false,
            max_pages: 1_000,
            max_records: None,
        },
        records: "/data".into(),
        incremental: None,
        primary_key: vec!["id".into()],
        table: Table {
            name: name.to_owned(),
            disposition: Disposition::Merge,
            ..Table::default()
        },
        add_columns: Vec::new(),
        schema: None,
    }
}

fn acme() -> Connector {
    let mut tickets = stream("tickets", "/tickets");
    tickets.description = "What customers ask.".into();
    tickets.incremental = Some(Incremental {
        cursor: CursorField::Own("updated_at".into()),
        since_param: Some("updated_since".into()),
        until_param: None,
        format: TimeFormat::Rfc3339,
        lookback: Duration::from_secs(3_600),
        start: None,
        window: None,
        sorted: false,
    });
    tickets.table.partition = Some(Partitioning {
        column: "created_at".into(),
        unit: PartitionUnit::Day,
        fixed: true,
    });
    tickets.table.cluster_by = vec!["status".into()];
    tickets.schema = Some(TableSchema {
        columns: vec![Column::new("id", ColumnType::Int64)],
    });
    let mut comments = stream("comments", "/tickets/{{ parent.id }}/comments");
    comments.parent = Some(Parent {
        stream: "tickets".into(),
        fields: vec!["id".into()],
    });
    comments.pagination.step = Step::Cursor {
        param: "after".into(),
        next: Locator::Body("/next".into()),
    };
    comments.pagination.size = None;
    comments.table.disposition = Disposition::Replace;
    let key = |name: &str, secret, default: Option<&str>| ConfigKey {
        name: name.to_owned(),
        description: format!("About {name}"),
        secret,
        default: default.map(str::to_owned),
        optional: false,
    };
    Connector {
        name: "acme".into(),
        title: "Acme Support".into(),
        description: String::new(),
        docs: Some("https://developers.acme.example/rest".into()),
        config: vec![
            key("token", true, None),
            key("start_date", false, Some("2020-01-01")),
        ],
        allowed_hosts: Vec::new(),
        rate_limits: vec![RateLimit {
            requests: NonZeroU32::new(100).unwrap(),
            per: Duration::from_secs(60),
            burst: None,
            turn: Duration::ZERO,
        }],
        concurrency: 4,
        auths: vec![
            Auth::Basic {
                username: template("{{ config.token }}"),
                password: template(""),
            },
            Auth::OAuth(Box::new(OAuth {
                token_url: template("https://acme.example/token"),
                client_id: template("{{ config.id }}"),
                client_secret: template("{{ config.token }}"),
                scopes: Vec::new(),
                client_auth: ClientAuth::Basic,
                body: TokenBody::Form,
                params: BTreeMap::new(),
                headers: BTreeMap::new(),
                default_ttl: None,
                grant: Grant::ClientCredentials,
            })),
        ],
        streams: vec![tickets, comments],
    }
}

#[test]
fn the_list_has_a_line_for_each() {
    assert_eq!(
        list(&[acme()], 80, Paint::plain()),
        "\
name  title         streams  credentials
acme  Acme Support        2  Basic, OAuth client

`drawoff connectors describe NAME` shows what one needs and gives
"
    );
}

#[test]
fn a_description_says_what_it_needs_and_gives() {
    assert_eq!(
        describe(&acme(), 100, Paint::plain()),
        "\
acme: Acme Support
https://developers.acme.example/rest

Configuration
  token       secret              About token
  start_date  default 2020-01-01  About start_date

Requests
  credentials: Basic
  credentials: OAuth client credentials (Basic) from https://acme.example/token
  rate limit: 100 requests a minute
  at once: 4 requests

Streams
  tickets: What customers ask.
    GET /tickets
    pages: numbered from 1 by `page`, 100 records each
    reads what is new by `updated_at`, going back 1h 00m
    table `tickets`: merged by id, partitioned by created_at, clustered by status, 1 column
  comments
    GET /tickets/{{ parent.id }}/comments
    once for each record of `tickets`
    pages: by token `after`
    reads everything in each run
    table `comments`: replaced in each run, columns inferred
"
    );
}
