//! What a connector file may not say, and how that is told: file, line, column, key and the way out.

use std::collections::BTreeMap;

use drawoff::config::Environment;
use drawoff::connector::load::{Catalog, lint_file};
use drawoff::connector::syntax::{Schemas, read};
use drawoff::schema::TableSchema;
use drawoff::settings::{Overrides, Settings};
use drawoff::yaml::Severity;

const SCHEMA: &str = r#"[
  {"name": "id", "type": "INT64", "description": "d"},
  {"name": "created_at", "type": "TIMESTAMP", "description": "d"},
  {"name": "price", "type": "FLOAT64", "description": "d"},
  {"name": "tags", "type": "STRING", "mode": "REPEATED", "description": "d"},
  {"name": "meta", "type": "RECORD", "description": "d", "fields": [{"name": "at", "type": "TIMESTAMP", "description": "d"}]},
  {"name": "raw", "type": "JSON", "description": "d"}
]"#;

/// The findings of a file, one a line, hints behind an arrow.
fn findings(text: &str) -> String {
    let mut schemas = Schemas::new();
    let schema = TableSchema::from_json(SCHEMA, "schemas/acme/typed.json").unwrap();
    if text.contains("typed:") {
        schemas.insert("typed".into(), ("schemas/acme/typed.json".into(), schema));
    }
    let (lowered, findings) = read("acme", "acme.yaml", text, &schemas);
    let list = findings.into_sorted();
    assert_eq!(
        lowered.is_none(),
        list.iter().any(|f| f.severity == Severity::Error),
        "a connector comes out unless there is an error"
    );
    list.iter()
        .map(|f| match &f.hint {
            Some(hint) => format!("{f} -> {hint}\n"),
            None => format!("{f}\n"),
        })
        .collect()
}

/// Each file starts with this line, so that a case says only what it is about.
const HEAD: &str = "title: T\nbase_url: https://a.example\nconfig: {token: {secret: true, description: d}, day: {description: d, default: '1'}}\nauth: {bearer: {token: '{{ config.token }}'}}\nparams: {day: '{{ config.day }}'}\n";

#[test]
fn malformed_files_are_told_to_the_letter() {
    // What stands below HEAD (line 6 on), and what is said of it.
    let cases: &[(&str, &str)] = &[
        (
            "pagnation: {page: {}}\nstreams: {t: }\n",
            "acme.yaml:6:1: unknown key `pagnation` in the connector -> did you mean `pagination`?\n",
        ),
        (
            "streams:\n  t:\n    incrmental: {cursor: at}\n",
            "acme.yaml:8:5: unknown key `incrmental` in stream `t` -> did you mean `incremental`?\n",
        ),
        (
            "max_rejects: 5\nstreams:\n  t: {write_method: stream}\n  u: {write_disposition: append}\n  v: {lookback: 1h}\n  w: {name: things}\n",
            "acme.yaml:6:1: unknown key `max_rejects` in the connector -> it belongs inside `table`: `table: {max_rejects: …}`\n\
             acme.yaml:8:7: unknown key `write_method` in stream `t` -> it belongs inside `table`: `table: {write_method: …}`\n\
             acme.yaml:9:7: unknown key `write_disposition` in stream `u` -> it belongs inside `table`: `table: {disposition: …}`\n\
             acme.yaml:10:7: unknown key `lookback` in stream `v` -> it belongs inside `incremental`: `incremental: {lookback: …}`\n\
             acme.yaml:11:7: unknown key `name` in stream `w` -> it belongs inside `table`: `table: {name: …}`\n",
        ),
        (
            "pagination: {page: {per_page: 100}}\nstreams: {t: }\n",
            "acme.yaml:6:21: unknown key `per_page` in `pagination.page` -> did you mean `size_param`?\n",
        ),
        (
            "pagination: {pages: {}}\nstreams: {t: }\n",
            "acme.yaml:6:14: `pagination` is of no known kind -> did you mean `page`?\n",
        ),
        (
            "pagination:\n  page: {size_param: n, size: 10}\n  max_pages: 5\nstreams: {t: }\n",
            "acme.yaml:8:3: `pagination` takes one kind, and `max_pages` is beside it -> if it belongs to `page`, move it inside\n",
        ),
        (
            "pagination: {page: {size_param: n}}\nstreams: {t: }\n",
            "acme.yaml:6:21: `size_param` is given without `size` -> say how many records to ask for: `size: 100`\n",
        ),
        (
            "pagination: {cursor: {param: after}}\nstreams: {t: }\n",
            "acme.yaml:6:22: `pagination.cursor` lacks the key `next`\n",
        ),
        (
            "pagination: {next_url: {next: links.next}}\nstreams: {t: }\n",
            "acme.yaml:6:31: `next` says no place in an answer -> write a JSON pointer, `/links/next`, or a header, `header:X-Total`\n",
        ),
        (
            "pagination: {page: {read_ahead: true}}\nstreams: {t: }\n",
            "acme.yaml:6:33: `read_ahead` needs to know how many pages there are -> say where the answer has it: `total_pages: /meta/pages` or `total: header:X-Total`\n",
        ),
        (
            "pagination: {cursor: {param: a, next: /n, total: /t, read_ahead: true}}\nstreams: {t: }\n",
            "acme.yaml:6:66: `read_ahead` cannot know a page's request before the page before it -> it works with `page`, `offset` and `link_header`\n",
        ),
        (
            "records: $.data.items[*]\nstreams: {t: }\n",
            "acme.yaml:6:10: `records` is not a JSON pointer -> write `/data/items`, or nothing when the body is the list\n",
        ),
        (
            "rate_limit: {requests: 100, per: 60}\nstreams: {t: }\n",
            "acme.yaml:6:34: `per` must be a span of time -> write a whole number and a unit: `250ms`, `30s`, `5m`, `1h` or `7d`\n",
        ),
        (
            "rate_limit: {requests: none, per: 0s}\nstreams: {t: }\n",
            "acme.yaml:6:24: `requests` must be a whole number from 1 to 4294967295\n\
             acme.yaml:6:35: `per` must be longer than nothing\n",
        ),
        (
            "streams: {}\n",
            "acme.yaml:6:10: `streams` is empty -> name at least one: `streams: {contacts: }`\n",
        ),
        ("", "acme.yaml:1:1: the connector lacks the key `streams`\n"),
        (
            "streams: [a, b]\n",
            "acme.yaml:6:10: `streams` must be a map, not a list\n",
        ),
        (
            "streams: {t: , t: }\n",
            "acme.yaml:6:16: key `t` stands twice in `streams`\n\
             acme.yaml:6:16: streams `t` and `t` have the same table, `t` -> names are compared without regard to case\n",
        ),
        (
            "streams: {a: {table: {name: Same}}, b: {table: {name: same}}}\n",
            "acme.yaml:6:55: streams `a` and `b` have the same table, `same` -> names are compared without regard to case\n",
        ),
        (
            "streams: {a-b: {path: /a-b}}\n",
            "acme.yaml:6:11: `a-b` cannot be a stream's name: use letters, digits and underscores, starting with a letter\n",
        ),
        (
            "streams: {tickets: , comments: {path: '/tickets/{ticket.id}/comments'}}\n",
            "acme.yaml:6:39: `{ticket.id}` names no stream -> did you mean `{tickets.id}`?\n",
        ),
        (
            "streams: {tickets: , comments: {path: '/tickets/{id}/comments'}}\n",
            "acme.yaml:6:39: `{id}` in `path` names no stream's field -> name a parent's field as `{stream.id}`, a config key as `{{ config.id }}`\n",
        ),
        (
            "streams: {a: , b: , c: {path: '/a/{a.id}/b/{b.id}'}}\n",
            "acme.yaml:6:31: stream `c` has two parents, `a` and `b` -> a stream is read for the records of one other\n",
        ),
        (
            "streams:\n  a: {path: '/{b.id}'}\n  b: {path: '/{c.id}'}\n  c: {path: '/{a.id}'}\n",
            "acme.yaml:7:13: streams are each other's parents: `a` ← `b` ← `c` ← `a` -> one of them must be readable without the others\n",
        ),
        (
            "streams: {a: {path: '/{a.id}'}}\n",
            "acme.yaml:6:21: stream `a` is its own parent\n",
        ),
        (
            "streams: {t: {params: {x: '{{ config.tokn }}'}}}\n",
            "acme.yaml:6:27: parameter `x` names the config key `tokn`, which is not declared -> did you mean `token`?\n",
        ),
        (
            "streams: {t: {params: {x: '{{ confg.day }}'}}}\n",
            "acme.yaml:6:27: parameter `x` names `confg.day`, which is not known -> known are `config.KEY`, `since` and `until`\n",
        ),
        (
            "streams: {t: {params: {x: '{{ since }}'}}}\n",
            "acme.yaml:6:27: `since` is not known in parameter `x` -> it is known in the request of a stream with `incremental`\n",
        ),
        (
            "streams: {t: {params: {x: '{{ config.day | shout }}'}}}\n",
            "acme.yaml:6:27: parameter `x`: unknown filter: filter shout is unknown -> beside minijinja's own there are `segment`, `base64`, `before(mark)` and `after(mark)`\n",
        ),
        (
            "streams: {t: {params: {x: '{{ parent[\"id\"] }}'}}}\n",
            "acme.yaml:6:11: stream `t` uses `parent`, and names none -> name a parent's field as `{stream.field}`\n",
        ),
        (
            "streams: {t: {path: 'things?x=1'}}\n",
            "acme.yaml:6:21: `path` must start with `/` -> it follows `base_url`; another host is another `base_url`\n",
        ),
        (
            "streams: {t: {path: '/things?x=1'}}\n",
            "acme.yaml:6:21: `path` contains `?` -> say parameters in `params`\n",
        ),
        (
            "streams: {t: {incremental: {since_param: s}}}\n",
            "acme.yaml:6:28: `incremental` lacks the key `cursor` -> name the column that says how new a record is: `cursor: updated_at`\n",
        ),
        (
            "streams: {t: {incremental: {cursor: at, since_param: s, window: 1d}}}\n",
            "acme.yaml:6:65: `window` needs an upper bound in the request -> say `until_param`, or use `{{ until }}` in a parameter or the body\n",
        ),
        (
            "streams: {t: {incremental: {cursor: at}}}\n",
            "acme.yaml:6:37: warning: nothing in the request asks for new records only, so every run reads all -> say `since_param`, or use `{{ since }}` in a parameter or the body\n",
        ),
        (
            "streams: {t: {incremental: {cursor: at, since_param: s, format: epochs}}}\n",
            "acme.yaml:6:65: `format` must be one of `rfc3339`, `date`, `epoch`, `epoch_ms` or a strftime pattern -> did you mean `epoch`?\n",
        ),
        (
            "streams: {a: , b: {incremental: {cursor: a.at}}}\n",
            "acme.yaml:6:42: the cursor is a field of `a`, which is not the parent of `b` -> name the parent in the path: `{a.id}`\n\
             acme.yaml:6:42: warning: nothing in the request asks for new records only, so every run reads all -> say `since_param`, or use `{{ since }}` in a parameter or the body\n",
        ),
        (
            "streams: {t: {table: {disposition: merge}}}\n",
            "acme.yaml:6:36: stream `t` is to be merged by its `primary_key`, and has none -> name the columns that make a row: `primary_key: [id]`\n",
        ),
        (
            "streams:\n  t: {table: {disposition: scd2}}\n",
            "acme.yaml:7:28: stream `t` keeps the history of each row, which `scd2` tells by its `primary_key`, and has none -> name the columns that make a row: `primary_key: [id]`\n",
        ),
        (
            "streams: {t: {table: {disposition: upsert}}}\n",
            "acme.yaml:6:36: `disposition` must be one of `append`, `merge`, `replace`, `scd2`\n",
        ),
        (
            "streams: {t: {table: {cluster_by: [a, b, c, d, e]}}}\n",
            "acme.yaml:6:48: `cluster_by` has 5 columns -> BigQuery clusters by at most 4\n",
        ),
        (
            "streams: {t: {method: PUT, body: {a: 1}}}\n",
            "acme.yaml:6:23: `method` must be one of `GET`, `POST` -> did you mean `POST`?\n",
        ),
        (
            "streams: {t: {body: {a: 1}}}\n",
            "acme.yaml:6:21: `body` is given, and the method is GET -> say `method: POST`\n",
        ),
        (
            "streams: {t: {ignore_status: [404, 401, 200]}}\n",
            "acme.yaml:6:36: `ignore_status` has 401, which says that the credentials are wrong\n\
             acme.yaml:6:41: `ignore_status` takes statuses from 400 to 599\n",
        ),
        (
            "headers: {'X Y': a, Authorization: b}\nstreams: {t: }\n",
            "acme.yaml:6:11: `X Y` is not a header's name\n\
             acme.yaml:6:21: header `Authorization` cannot be set here -> credentials are said in `auth`; the rest is the engine's\n",
        ),
        (
            "allowed_hosts: ['https://cdn.example', '*.example']\nstreams: {t: }\n",
            "acme.yaml:6:17: `https://cdn.example` is not a host -> write `host` or `host:port`, without scheme, path or wildcard\n\
             acme.yaml:6:40: `*.example` is not a host -> write `host` or `host:port`, without scheme, path or wildcard\n",
        ),
        (
            "streams: {t: {base_url: 'http://b.example'}}\n",
            "acme.yaml:6:25: `base_url` would send credentials over plain http -> use https; plain http is for this machine only\n",
        ),
        (
            "streams: {t: {auth: {api_key: {header: X-Key, value: canary}}}}\n",
            "acme.yaml:6:54: `value` stands in the file as it is -> declare a config key with `secret: true` and name it: `{{ config.token }}`\n",
        ),
        (
            "streams: {t: {auth: {bearer: {token: '{{ config.day }}'}}}}\n",
            "acme.yaml:6:38: `token` is a credential, and config key `day` is not declared secret -> declare it: `day: {secret: true}`\n",
        ),
        (
            "streams: {t: {auth: {api_key: {value: '{{ config.token }}'}}}}\n",
            "acme.yaml:6:31: `auth.api_key` must say either `header` or `query` -> write the header's or the parameter's name: `{header: X-Api-Key, value: …}`\n",
        ),
        (
            "streams: {t: {auth: {oauth2: {client_credentials: {token_url: 'http://b.example/t', client_id: a, client_secret: '{{ config.token }}', client_auth: Basic}}}}}\n",
            "acme.yaml:6:63: `token_url` would send credentials over plain http -> use https; plain http is for this machine only\n\
             acme.yaml:6:149: `client_auth` is of no known kind -> did you mean `basic`?\n",
        ),
        (
            "streams: {t: {add_columns: {1st: a, _run_id: b, s: '{{ config.token }}'}}}\n",
            "acme.yaml:6:29: `1st` cannot be a column: the name must start with a letter or underscore\n\
             acme.yaml:6:37: added column `_run_id` is the engine's own already -> give it another name\n\
             acme.yaml:6:52: added column `s` would write a secret into every row\n",
        ),
        (
            "streams:\n  typed:\n    primary_key: [idd, raw]\n    table: {partition_by: id, cluster_by: [price, tags]}\n    add_columns: {ID: x}\n    incremental: {cursor: created, since_param: s}\n",
            "acme.yaml:8:19: `primary_key` names `idd`, which is no column of stream `typed` -> did you mean `id`?\n\
             acme.yaml:8:24: column `raw` of stream `typed` is JSON, unfit for `primary_key` -> a key can be compared: no JSON, GEOGRAPHY, RECORD or list\n\
             acme.yaml:9:27: column `id` of stream `typed` is INT64, unfit for `partition_by` -> tables are partitioned by a DATE, DATETIME or TIMESTAMP\n\
             acme.yaml:9:44: column `price` of stream `typed` is FLOAT64, unfit for `cluster_by` -> tables are clustered by BIGNUMERIC, BOOL, DATE, DATETIME, GEOGRAPHY, INT64, NUMERIC, STRING or TIMESTAMP\n\
             acme.yaml:9:51: column `tags` of stream `typed` is REPEATED STRING, unfit for `cluster_by` -> tables are clustered by BIGNUMERIC, BOOL, DATE, DATETIME, GEOGRAPHY, INT64, NUMERIC, STRING or TIMESTAMP\n\
             acme.yaml:10:19: added column `ID` is in the schema already -> give it another name\n\
             acme.yaml:11:27: `cursor` names `created`, which is no column of stream `typed` -> did you mean `created_at`?\n",
        ),
        (
            "streams:\n  typed: {primary_key: price}\n",
            "acme.yaml:7:24: column `price` of stream `typed` is FLOAT64, unfit for `primary_key` -> a FLOAT64 is never sure to equal another: declare it as INT64, NUMERIC or STRING\n",
        ),
        (
            "streams:\n  typed:\n    primary_key: id\n    table: {partition_by: _extracted_at, cluster_by: kind}\n    add_columns: {kind: x}\n    incremental: {cursor: meta.at, since_param: s}\n",
            "",
        ),
        (
            "streams:\n  t: {primary_key: id, table: {disposition: replace, soft_delete: true}}\n  \
             u: {primary_key: id, table: {disposition: scd2, soft_delete: true}}\n  \
             v: {primary_key: id, table: {disposition: scd2, partition_by: {column: _valid_from, fixed: true}}}\n  \
             w: {primary_key: id, table: {soft_delete: true, partition_by: _deleted_at}, add_columns: {_valid_to: x}}\n  \
             x: {primary_key: id, table: {soft_delete: true}, add_columns: {_deleted_at: x}}\n",
            "acme.yaml:7:67: `soft_delete` is for tables that are merged into -> say `disposition: merge`, with a `primary_key`\n\
             acme.yaml:8:64: `soft_delete` is for tables that are merged into -> leave it out: `scd2` gives a row that is no longer listed an end in `_valid_to`\n\
             acme.yaml:9:74: `fixed` is not true of `_valid_from`, which changes with each run -> leave `fixed` out, or partition by a column such as `created_at`\n\
             acme.yaml:11:66: added column `_deleted_at` is the engine's own already -> give it another name\n",
        ),
        (
            "streams:\n  t: {table: {disposition: append}}\n  u: {primary_key: id, incremental: {cursor: at, since_param: s}, table: {disposition: append}}\n",
            "acme.yaml:7:28: warning: stream `t` is not incremental, so each run reads all of it and `append` adds every row again -> say `incremental`, or `disposition: replace`, or `merge` with a `primary_key`; leave it where each run is to add a copy of its own\n",
        ),
        (
            "table: {disposition: replace}\nstreams:\n  t: {incremental: {cursor: at, since_param: s}}\n  \
             u: {params: {from: '{{ since }}'}, incremental: {cursor: at}}\n  \
             v: {path: '/{u.id}', incremental: {cursor: u.at}}\n  w: {}\n  x: {incremental: {cursor: at}}\n",
            "acme.yaml:6:22: stream `t` is incremental: a run reads what is new, and `replace` would leave only that in the table -> leave `incremental` out, so that each run reads everything; or say `disposition: merge` with a `primary_key`, or `append`\n\
             acme.yaml:6:22: stream `u` is incremental: a run reads what is new, and `replace` would leave only that in the table -> leave `incremental` out, so that each run reads everything; or say `disposition: merge` with a `primary_key`, or `append`\n\
             acme.yaml:6:22: stream `v` is incremental: a run reads what is new, and `replace` would leave only that in the table -> leave `incremental` out, so that each run reads everything; or say `disposition: merge` with a `primary_key`, or `append`\n\
             acme.yaml:12:29: warning: nothing in the request asks for new records only, so every run reads all -> say `since_param`, or use `{{ since }}` in a parameter or the body\n",
        ),
        (
            "streams:\n  t: {table: {audit_columns: false, partition_by: _extracted_at, cluster_by: [a, _Run_id]}}\n",
            "acme.yaml:7:51: `partition_by` names `_extracted_at`, which the table of stream `t` lacks because of `audit_columns: false` -> leave `audit_columns` out, or name a column of the records\n\
             acme.yaml:7:82: `cluster_by` names `_Run_id`, which the table of stream `t` lacks because of `audit_columns: false` -> leave `audit_columns` out, or name a column of the records\n",
        ),
        (
            "streams:\n  t: {primary_key: id, table: {allow_empty_replace: true}}\n  \
             u: {table: {allow_empty_replace: true}}\n  v: {primary_key: id, table: {allow_empty_replace: true, soft_delete: true}}\n  \
             w: {primary_key: id, table: {allow_empty_replace: true, disposition: scd2}}\n  x: {primary_key: id, table: {allow_empty_replace: false}}\n",
            "acme.yaml:7:53: warning: `allow_empty_replace` has no effect but with `--full-refresh`: with `disposition: merge` a run empties nothing -> leave it out; it is for `disposition: replace`, `scd2` and `soft_delete`\n",
        ),
        (
            "table: {allow_empty_replace: true}\nstreams: {t: {primary_key: id}, u: }\n",
            "",
        ),
        (
            "table: {allow_empty_replace: true}\nstreams: {t: {primary_key: id}, u: {primary_key: id}}\n",
            "acme.yaml:6:30: warning: `allow_empty_replace` has no effect but with `--full-refresh`: with `disposition: merge` a run empties nothing -> leave it out; it is for `disposition: replace`, `scd2` and `soft_delete`\n",
        ),
        (
            "streams:\n  t: {pagination: *nowhere}\n",
            "acme.yaml:7:19: this is not valid YAML: while parsing node, found unknown anchor\n",
        ),
    ];
    for (text, said) in cases {
        assert_eq!(findings(&format!("{HEAD}{text}")), *said, "\n{text}");
    }
}

#[test]
fn the_top_of_a_file_is_checked_too() {
    let cases: &[(&str, &str)] = &[
        (
            "",
            "acme.yaml:1:1: the file is empty -> a connector has at least `title`, `base_url` and `streams`\n",
        ),
        (
            "- a\n",
            "acme.yaml:1:1: the connector must be a map, not a list\n",
        ),
        (
            "base_url: https://a.example\nstreams: {t: }\n",
            "acme.yaml:1:1: the connector lacks the key `title`\n",
        ),
        (
            "title: T\nstreams: {t: }\n",
            "acme.yaml:1:1: the connector lacks the key `base_url` -> say it at the top, or in every stream\n",
        ),
        (
            "title: T\nbase_url: api.example/v1\nstreams: {t: }\n",
            "acme.yaml:2:11: `base_url` is not an absolute http or https URL -> write scheme and host: `https://api.example.com/v1`\n",
        ),
        (
            "title: T\nbase_url: https://u:p@a.example\nstreams: {t: }\n",
            "acme.yaml:2:11: `base_url` holds credentials -> say them in `auth`, out of secret config keys\n",
        ),
        (
            "title: T\nbase_url: https://a.example\nconfig:\n  a-b: {}\n  s: {secret: yes, default: canary}\n  unused: {description: d}\nstreams: {t: }\n",
            "acme.yaml:4:3: config key `a-b` cannot be named in a template -> use letters, digits and underscores, starting with a letter\n\
             acme.yaml:5:15: `secret` must be `true` or `false`\n",
        ),
        (
            "title: T\nbase_url: https://a.example\nconfig:\n  s: {secret: true, default: canary}\nstreams: {t: }\n",
            "acme.yaml:4:30: secret config key `s` has a default -> a secret never stands in a file; leave the default out\n",
        ),
        (
            "title: T\nbase_url: https://a.example\nconfig: {unused: {description: d}}\nstreams: {t: }\n",
            "acme.yaml:3:10: warning: config key `unused` is declared and not used -> name it as `{{ config.unused }}`, or take it out\n",
        ),
        (
            "title: T\nbase_url: https://a.example\ntable: {name: all}\nstreams: {a: , b: }\n",
            "acme.yaml:3:9: `table.name` stands at the top, where it would name every stream's table -> say it in a stream\n",
        ),
        (
            "title: T\n\tbase_url: x\n",
            "acme.yaml:1:8: this is not valid YAML: while scanning a plain scalar, found a tab\n",
        ),
        (
            "title: T\nbase_url: https://a.example\nauth: {basic: {username: me, password: canary}}\nstreams: {t: }\n",
            "acme.yaml:3:15: `auth.basic` stands in the file as it is -> declare a config key with `secret: true` and name it: `{{ config.token }}`\n",
        ),
        (
            "title: T\nbase_url: http://localhost:8080\nconfig: {t: {secret: true, description: d}}\nauth: {bearer: {token: '{{ config.t }}'}}\nstreams: {t: }\n",
            "",
        ),
    ];
    for (text, said) in cases {
        assert_eq!(findings(text), *said, "\n{text}");
    }
}

#[test]
fn loading_tells_all_errors_at_once_and_hints_at_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("acme.yaml");
    std::fs::write(
        &path,
        "titel: T\nbase_url: https://a.example\nstreams: {t: {path: x}}\n",
    )
    .unwrap();
    let error = Catalog::new(Some(folder.path().to_path_buf()))
        .load("acme")
        .unwrap_err();
    let text = error
        .to_string()
        .replace(&format!("{}/", folder.path().display()), "");
    assert_eq!(
        text,
        "acme.yaml:1:1: unknown key `titel` in the connector\n\
         acme.yaml:1:1: the connector lacks the key `title`\n\
         acme.yaml:3:21: `path` must start with `/` (it follows `base_url`; another host is another `base_url`)"
    );
    assert_eq!(error.find_hint(), Some("did you mean `title`?"));
    assert_eq!(error.exit_code(), 2);
    assert_eq!(lint_file(&path).unwrap().len(), 3);
}

#[test]
fn schemas_are_linted_with_their_connector() {
    let folder = tempfile::tempdir().unwrap();
    let schemas = folder.path().join("schemas/acme");
    std::fs::create_dir_all(&schemas).unwrap();
    let path = folder.path().join("acme.yaml");
    std::fs::write(
        &path,
        "title: T\nbase_url: https://a.example\nstreams: {things: }\n",
    )
    .unwrap();
    std::fs::write(
        schemas.join("thing.json"),
        r#"[{"name": "a", "type": "STRING"}]"#,
    )
    .unwrap();
    std::fs::write(
        schemas.join("things.json"),
        r#"[{"name": "a", "type": "TEXT"}]"#,
    )
    .unwrap();
    let said: BTreeMap<String, String> = lint_file(&path)
        .unwrap()
        .into_iter()
        .map(|f| {
            let file = std::path::Path::new(&f.file).file_name().unwrap();
            let message = f.message.replace(&f.file, "FILE");
            (format!("{}/{:?}", file.display(), f.severity), message)
        })
        .collect();
    let expected = [
        (
            "thing.json/Error",
            "the schema is for stream `thing`, which does not exist",
        ),
        ("thing.json/Warning", "column `a` has no description"),
    ];
    for (file, message) in expected {
        assert_eq!(said[file], message);
    }
    assert!(
        said["things.json/Error"]
            .starts_with("could not read the table schema FILE:1:29: unknown variant `TEXT`"),
        "{said:?}"
    );
}

#[test]
fn every_embedded_connector_lints_clean_and_has_schemas() {
    let catalog = Catalog::default();
    let names = catalog.names().unwrap();
    assert!(names.contains(&"github".to_owned()), "{names:?}");
    for name in names {
        let findings = catalog.lint(&name).unwrap();
        let text: String = findings.iter().map(|f| format!("{f}\n")).collect();
        assert_eq!(text, "", "connector `{name}`");
        let connector = catalog.load(&name).unwrap().connector;
        for stream in &connector.streams {
            assert!(
                stream.schema.is_some(),
                "`{name}.{}` has no schema",
                stream.name
            );
            assert!(
                !stream.description.is_empty(),
                "`{name}.{}` says not what it is",
                stream.name
            );
        }
    }
}

#[test]
fn the_references_examples_lint_clean() {
    let read = |page: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        std::fs::read_to_string(path).unwrap()
    };
    // The other page also shows single keys.
    let (text, other) = (read("docs/connector.md"), read("docs/authentication.md"));
    let whole = other
        .split("```yaml\n")
        .filter(|rest| rest.starts_with("title:"));
    let text = text
        + &whole
            .map(|rest| format!("```yaml\n{rest}"))
            .collect::<String>();
    let examples: Vec<&str> = text
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split_once("```"))
        .map(|(example, _)| example)
        .collect();
    let (settings, connectors): (Vec<&str>, Vec<&str>) = examples
        .iter()
        .partition(|e| e.starts_with("# drawoff.yaml"));
    assert_eq!((settings.len(), connectors.len()), (1, 6));
    for example in connectors {
        assert_eq!(findings(example), "", "\n{example}");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("drawoff.yaml"), settings[0]).unwrap();
    let none = Environment::of::<&str, &str>([]);
    let settings = Settings::read(Overrides::default(), none, folder.path()).unwrap();
    assert_eq!(settings.source_names(), ["acme-eu"]);
}
