use std::time::Duration;

use http::Method;

use super::*;
use crate::connector::model::*;
use crate::connector::template::{ConfigValue, Scope};
use crate::schema::landing::{Disposition, WriteMethod};
use crate::yaml::finding::Severity;

fn load(text: &str) -> Connector {
    let (lowered, findings) = read("acme", "acme.yaml", text, &Schemas::new());
    match lowered {
        Some(lowered) => lowered.connector,
        None => panic!("{:#?}", findings.into_sorted()),
    }
}

/// A connector of one stream `things` with these keys.
fn stream(keys: &str) -> Stream {
    let text = format!(
        "title: T\nbase_url: https://a.example\nconfig: {{q: , start_date: {{default: '2020-01-01'}}}}\nstreams:\n  things:\n{}",
        keys.lines()
            .map(|l| format!("    {l}\n"))
            .collect::<String>()
    );
    load(&text).streams.remove(0)
}

fn scope(parent: &[(&str, &str)]) -> Scope {
    let config = [("q".to_owned(), ConfigValue::Plain("a\"b".to_owned()))];
    Scope {
        config: std::sync::Arc::new(config.into()),
        parent: Some(
            parent
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        ),
        since: Some("2026-01-01".into()),
        until: None,
    }
}

const ACME: &str = r#"
title: Acme Support
docs: https://developers.acme.example/rest
config:
  companyid: {description: Organisation ID, secret: true}
  token:     {description: API token, secret: true}
  start_date: {description: First day to load, default: "2020-01-01"}
base_url: https://api.acme.example/v1
auth: {basic: {username: "{{ config.companyid }}", password: "{{ config.token }}"}}
rate_limit: {requests: 100, per: 1m, concurrency: 4}
pagination: {page: {page_param: page, size_param: per_page, size: 100}}
records: /data
primary_key: [id]
streams:
  ticket_comments: {path: "/tickets/{tickets.id}/comments"}
  contacts:
  tickets:
    incremental: {cursor: updated_at, since_param: updated_since, lookback: 1h}
    table: {partition_by: created_at, cluster_by: [status]}
"#;

#[test]
fn the_common_case_says_everything_once() {
    let (lowered, findings) = read("acme", "acme.yaml", ACME, &Schemas::new());
    assert_eq!(findings.into_sorted(), []);
    let acme = lowered.unwrap().connector;
    assert_eq!(acme.title, "Acme Support");
    assert_eq!(acme.concurrency, 4);
    assert_eq!(acme.rate_limits[0].requests.get(), 100);
    assert_eq!(acme.rate_limits[0].per, Duration::from_secs(60));
    assert_eq!(acme.auths.len(), 1);
    // Parents before their children, else in the file's order.
    let names: Vec<&str> = acme.streams.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["contacts", "tickets", "ticket_comments"]);
    let contacts = acme.stream("contacts").unwrap();
    assert_eq!(contacts.request.path.as_str(), "/contacts");
    assert_eq!(contacts.table.name, "contacts");
    assert_eq!(contacts.table.disposition, Disposition::Merge);
    assert_eq!(contacts.table.max_rejects, 100);
    assert_eq!(contacts.records, "/data");
    assert_eq!(
        contacts.pagination,
        Pagination {
            step: Step::Page {
                param: "page".into(),
                first: 1,
                next: None
            },
            size: Some(PageSize {
                param: Some("per_page".into()),
                value: 100
            }),
            has_more: None,
            total_pages: None,
            total: None,
            read_ahead: false,
            stop_after_empty_pages: 1,
            stop_on_short_page: false,
            max_pages: 1_000_000,
            max_records: None,
        }
    );
    let tickets = acme.stream("tickets").unwrap();
    let incremental = tickets.incremental.as_ref().unwrap();
    assert_eq!(incremental.cursor, CursorField::Own("updated_at".into()));
    assert_eq!(incremental.lookback, Duration::from_secs(3600));
    assert_eq!(
        incremental.start.as_ref().unwrap().as_str(),
        "{{ config.start_date }}"
    );
    let comments = acme.stream("ticket_comments").unwrap();
    assert_eq!(
        comments.parent,
        Some(Parent {
            stream: "tickets".into(),
            fields: vec!["id".into()]
        })
    );
    assert_eq!(
        comments.request.path.as_str(),
        r#"/tickets/{{ parent["id"] | segment }}/comments"#
    );
}

#[test]
fn scalars_are_taken_verbatim() {
    let things = stream("params: {a: 007, b: 1e3, c: true, d: '', e: [x, 0x1F], f: ~}");
    let params: Vec<(&str, &str)> = things
        .request
        .params
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(
        params,
        [
            ("a", "007"),
            ("b", "1e3"),
            ("c", "true"),
            ("d", ""),
            ("e", "x"),
            ("e", "0x1F")
        ]
    );
    let acme = load(
        "title: 007\nconfig: {n: {default: 010}, s: {default: no}}\nbase_url: https://a.example\nparams: {n: '{{ config.n }}', s: '{{ config.s }}'}\nstreams: {t: }\n",
    );
    assert_eq!(acme.title, "007");
    assert_eq!(acme.config[0].default.as_deref(), Some("010"));
    assert_eq!(acme.config[1].default.as_deref(), Some("no"));
}

#[test]
fn a_streams_word_wins_and_maps_merge() {
    let acme = load(
        "title: T\nbase_url: https://a.example\nheaders: {Accept: a, X-One: '1'}\nparams: {p: top, q: top}\n\
         pagination: {offset: {limit: 50}}\nprimary_key: id\ntable: {max_rejects: 5, partition_by: day}\n\
         incremental: {cursor: updated, since_param: since, lookback: 1d}\n\
         streams:\n  a:\n    headers: {accept: b, X-One: ~}\n    params: {q: own}\n    pagination: none\n    primary_key: ~\n    table: {max_rejects: 0}\n    incremental: {lookback: 2d}\n\
         \x20 b: {incremental: none, table: ~, params: ~}\n  c:\n",
    );
    let [a, b, c] = acme.streams.as_slice() else {
        panic!()
    };
    let pairs = |list: &[(String, Template)]| -> Vec<String> {
        list.iter()
            .map(|(k, v)| format!("{k}={}", v.as_str()))
            .collect()
    };
    assert_eq!(pairs(&a.request.headers), ["accept=b"]);
    assert_eq!(pairs(&a.request.params), ["p=top", "q=own"]);
    assert_eq!(a.pagination.step, Step::Single);
    assert!(a.primary_key.is_empty());
    assert_eq!(
        (
            a.table.max_rejects,
            a.table.partition.as_ref().map(|p| p.column.as_str())
        ),
        (0, Some("day"))
    );
    let incremental = a.incremental.as_ref().unwrap();
    assert_eq!(incremental.lookback, Duration::from_secs(172_800));
    assert_eq!(incremental.since_param.as_deref(), Some("since"));
    assert_eq!(a.table.disposition, Disposition::Append);
    assert!(b.incremental.is_none() && b.request.params.is_empty());
    assert_eq!(b.table.max_rejects, 100);
    assert_eq!(
        c.incremental.as_ref().unwrap().lookback,
        Duration::from_secs(86_400)
    );
    assert_eq!(
        c.pagination.size,
        Some(PageSize {
            param: Some("limit".into()),
            value: 50
        })
    );
    assert_eq!(c.table.disposition, Disposition::Merge);
}

#[test]
fn every_way_of_paging() {
    let page = |yaml: &str| stream(&format!("pagination: {yaml}")).pagination;
    assert_eq!(
        page("{page: {page_param: p, first_page: 0, next_page: 'header:X-Next-Page', total_pages: /meta/pages, read_ahead: true}}").step,
        Step::Page { param: "p".into(), first: 0, next: Some(Locator::Header("X-Next-Page".into())) }
    );
    assert_eq!(
        page(
            "{cursor: {param: after, next: /meta/next, has_more: /meta/more, max_records: 10_000}}"
        ),
        Pagination {
            has_more: Some(Locator::Body("/meta/more".into())),
            max_records: Some(10_000),
            ..page("{cursor: {param: after, next: /meta/next}}")
        }
    );
    assert_eq!(page("link_header").step, Step::Link { rel: "next".into() });
    assert_eq!(
        page(
            "{next_url: {next: /links/next, stop_on_short_page: true, stop_after_empty_pages: 3}}"
        )
        .step,
        Step::NextUrl {
            next: Locator::Body("/links/next".into())
        }
    );
    assert_eq!(page("none").step, Step::Single);
    assert_eq!(
        page("page").step,
        Step::Page {
            param: "page".into(),
            first: 1,
            next: None
        }
    );
}

#[test]
fn every_kind_of_auth() {
    let auth = |yaml: &str| {
        let text = format!(
            "title: T\nbase_url: https://a.example\nconfig: {{id: , pair: {{secret: true}}, token: {{secret: true}}}}\nauth: {yaml}\nstreams: {{t: }}\n"
        );
        load(&text).auths.remove(0)
    };
    let t = |text: &str| Template::parse(text).unwrap();
    assert_eq!(auth("none"), Auth::None);
    assert_eq!(
        auth("{basic: {username: '{{ config.token }}', password: X}}"),
        Auth::Basic {
            username: t("{{ config.token }}"),
            password: t("X")
        }
    );
    let Auth::Basic { username, password } = auth("{basic: {credentials: '{{ config.pair }}'}}")
    else {
        panic!()
    };
    let mut scope = scope(&[]);
    let pair = ConfigValue::Secret("user:pass:word".to_owned().into());
    scope.config = std::sync::Arc::new([("pair".to_owned(), pair)].into());
    assert_eq!(username.render(&scope).unwrap(), "user");
    assert_eq!(password.render(&scope).unwrap(), "pass:word");
    assert_eq!(
        auth("{api_key: {query: key, value: '{{ config.token }}'}}"),
        Auth::ApiKey {
            place: KeyPlace::Query("key".into()),
            value: t("{{ config.token }}")
        }
    );
    let Auth::OAuth(grant) = auth(
        "{oauth2: {client_credentials: {token_url: 'https://{{ config.id }}.example/t', client_id: '{{ config.id }}', client_secret: '{{ config.token }}', scopes: [a, b], client_auth: basic_raw, body: json, params: {audience: x}, default_ttl: 15m}}}",
    ) else {
        panic!()
    };
    assert_eq!(grant.client_auth, ClientAuth::BasicRaw);
    assert_eq!(grant.body, TokenBody::Json);
    assert_eq!(grant.scopes, [t("a"), t("b")]);
    assert_eq!(grant.default_ttl, Some(Duration::from_secs(900)));
    assert_eq!(grant.params["audience"], t("x"));
}

/// The auth of a connector whose config keys are `id`, and the secrets `token`, `key` and `refresh`.
fn auth_text(yaml: &str) -> String {
    format!(
        "title: T\nbase_url: https://a.example\nconfig:\n  id: {{optional: true}}\n  token: {{secret: true}}\n  key: {{secret: true}}\n  refresh: {{secret: true}}\nauth: {yaml}\nstreams: {{t: }}\n"
    )
}

fn oauth(yaml: &str) -> OAuth {
    match load(&auth_text(&format!("{{oauth2: {yaml}}}")))
        .auths
        .remove(0)
    {
        Auth::OAuth(oauth) => *oauth,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_grant() {
    let t = |text: &str| Template::parse(text).unwrap();
    let refresh = oauth(
        "{refresh_token: {token_url: 'https://l.example/t', client_id: c, refresh_token: '{{ config.refresh }}', revocation_url: 'https://l.example/r'}}",
    );
    assert_eq!(refresh.client_secret.as_str(), "", "a public client");
    assert_eq!(
        refresh.grant,
        Grant::RefreshToken {
            token: "refresh".into(),
            revocation_url: Some(t("https://l.example/r")),
        }
    );
    let password = oauth(
        "{password: {token_url: 'https://l.example/t', username: '{{ config.id }}', password: '{{ config.token }}'}}",
    );
    assert_eq!(password.client_id.as_str(), "");
    assert!(matches!(password.grant, Grant::Password { .. }));
    let signed = oauth(
        "{jwt_bearer: {token_url: 'https://l.example/t', private_key: '{{ config.key }}', alg: ES256, kid: k1, issuer: '{{ config.id }}', audience: a, lifetime: 10m, claims: {scope: x, n: 7}}}",
    );
    let Grant::JwtBearer(jwt) = signed.grant else {
        panic!()
    };
    assert_eq!(
        *jwt,
        Jwt {
            key: t("{{ config.key }}"),
            algorithm: JwtAlgorithm::Es256,
            key_id: Some(t("k1")),
            issuer: Some(t("{{ config.id }}")),
            subject: None,
            audience: Some(t("a")),
            lifetime: Duration::from_secs(600),
            claims: Some(t(r#"{"scope": "x","n": 7}"#)),
        }
    );
    let asserted = oauth(
        "{client_credentials: {token_url: 'https://l.example/t', client_id: c, client_auth: {private_key_jwt: {secret: '{{ config.key }}', alg: HS256}}}}",
    );
    assert!(
        matches!(asserted.client_auth, ClientAuth::PrivateKeyJwt(jwt) if jwt.algorithm == JwtAlgorithm::Hs256)
    );
    let login = oauth(
        "{authorization_code: {authorization_url: 'https://l.example/a', token_url: 'https://l.example/t', client_id: c, refresh_token: '{{config.refresh}}', authorization_params: {prompt: consent}, redirect_host: localhost, redirect_port: 8400}}",
    );
    let Grant::AuthorizationCode(login) = login.grant else {
        panic!()
    };
    assert_eq!(login.params["prompt"], t("consent"));
    assert_eq!(
        (login.redirect_host.as_str(), login.redirect_port),
        ("localhost", Some(8400))
    );
}

#[test]
fn sessions_and_signed_tokens() {
    let auth = |yaml: &str| load(&auth_text(yaml)).auths.remove(0);
    let t = |text: &str| Template::parse(text).unwrap();
    let Auth::Session(session) = auth(
        "{session: {login: {path: /login, body: {user: a, pass: '{{ config.token }}'}}, token: /data/token, send: {header: X-Session, prefix: Token}, ttl: 20m}}",
    ) else {
        panic!()
    };
    assert_eq!(session.login, LoginPlace::Path(t("/login")));
    assert_eq!(session.method, Method::POST);
    assert_eq!(session.token, TokenSpot::Body("/data/token".into()));
    assert_eq!(
        session.place,
        TokenPlace::Header {
            name: "X-Session".into(),
            prefix: "Token ".into()
        }
    );
    let Auth::Session(session) = auth(
        "{session: {login: {url: 'https://a.example/in', method: GET, headers: {X-Key: '{{ config.token }}'}}, token: 'cookie:SID', send: {cookie: SID}}}",
    ) else {
        panic!()
    };
    assert_eq!(session.token, TokenSpot::Cookie("SID".into()));
    assert_eq!(session.place, TokenPlace::Cookie("SID".into()));
    assert_eq!(
        auth("{jwt: {private_key: '{{ config.key }}'}}"),
        Auth::Jwt {
            jwt: Box::new(Jwt {
                key: t("{{ config.key }}"),
                algorithm: JwtAlgorithm::Rs256,
                key_id: None,
                issuer: None,
                subject: None,
                audience: None,
                lifetime: Duration::from_secs(300),
                claims: None,
            }),
            place: TokenPlace::bearer(),
        }
    );
}

#[test]
fn mistakes_in_auth_are_shown_in_their_place() {
    let token = "token_url: 'https://l.example/t', client_id: c";
    for (yaml, at, says) in [
        ("{oauth2: {refresh: {}}}", "refresh: ", "of no known kind"),
        (
            "{oauth2: refresh_token}",
            "refresh_token",
            "`refresh_token` lacks `token_url`, `client_id` and `refresh_token`",
        ),
        (
            &format!("{{oauth2: {{refresh_token: {{{token}}}}}}}"),
            "{token_url",
            "lacks the key `refresh_token`",
        ),
        (
            &format!(
                "{{oauth2: {{refresh_token: {{{token}, refresh_token: 'x{{{{ config.refresh }}}}'}}}}}}"
            ),
            "'x{{",
            "must be one config key and nothing else",
        ),
        (
            &format!("{{oauth2: {{refresh_token: {{{token}, refresh_token: abc}}}}}}"),
            "abc",
            "stands in the file as it is",
        ),
        (
            &format!(
                "{{oauth2: {{refresh_token: {{{token}, refresh_token: '{{{{ config.id }}}}'}}}}}}"
            ),
            "'{{ config.id",
            "is not declared secret",
        ),
        (
            &format!("{{oauth2: {{client_credentials: {{{token}}}}}}}"),
            "{token_url",
            "lacks the key `client_secret`",
        ),
        (
            &format!(
                "{{oauth2: {{client_credentials: {{{token}, client_secret: '{{{{ config.token }}}}', client_auth: {{private_key_jwt: {{private_key: '{{{{ config.key }}}}'}}}}}}}}}}"
            ),
            "'{{ config.token",
            "stands beside `private_key_jwt`",
        ),
        (
            &format!("{{oauth2: {{client_credentials: {{{token}, username: x}}}}}}"),
            "username",
            "unknown key `username`",
        ),
        (
            "{oauth2: {jwt_bearer: {token_url: 'https://l.example/t', secret: '{{ config.key }}'}}}",
            "secret:",
            "`secret` does not go with `alg`",
        ),
        (
            "{oauth2: {jwt_bearer: {token_url: 'https://l.example/t', private_key: '{{ config.key }}', alg: RS255}}}",
            "RS255",
            "must be one of `RS256`",
        ),
        (
            "{oauth2: {jwt_bearer: {token_url: 'http://l.example/t', private_key: '{{ config.key }}'}}}",
            "'http:",
            "over plain http",
        ),
        (
            &format!(
                "{{oauth2: {{authorization_code: {{authorization_url: 'http://l.example/a', {token}, refresh_token: '{{{{ config.refresh }}}}'}}}}}}"
            ),
            "'http:",
            "over plain http",
        ),
        (
            &format!(
                "{{oauth2: {{authorization_code: {{authorization_url: 'https://l.example/a', {token}, refresh_token: '{{{{ config.refresh }}}}', authorization_params: {{k: '{{{{ config.key }}}}'}}}}}}}}"
            ),
            "{authorization_url",
            "would show a secret",
        ),
        (
            "{google: {id_token: {audience: ''}}}",
            "''",
            "`audience` is empty",
        ),
        (
            "{google: {access_token: {scopes: []}}}",
            "[]",
            "`scopes` is empty",
        ),
        (
            &format!(
                "{{oauth2: {{client_credentials: {{{token}, client_secret: '{{{{ config.token }}}}', scopes: [a, '']}}}}}}"
            ),
            "'']",
            "`scopes` holds an empty one",
        ),
        (
            "{session: {login: {path: /in, body: {a: '{{ config.token }}'}}, token: data}}",
            "data",
            "is no place in an answer",
        ),
        (
            "{session: {login: {path: /in, body: {a: b}}, token: /t}}",
            "{login",
            "stands in the file as it is",
        ),
        (
            "{session: {login: {path: /in, url: 'https://a.example/'}, token: /t}}",
            "{path",
            "either `path` or `url`",
        ),
        (
            "{session: {login: {path: /in, form: {a: '{{ config.token }}'}}, token: /t, send: {header: X, query: y}}}",
            "{header",
            "must say one of",
        ),
        (
            "{jwt: {alg: HS256, private_key: '{{ config.key }}'}}",
            "private_key:",
            "`private_key` does not go with",
        ),
    ] {
        let (lowered, findings) = read("acme", "acme.yaml", &auth_text(yaml), &Schemas::new());
        assert!(lowered.is_none(), "{yaml}");
        let findings = findings.into_sorted();
        let found = findings.iter().find(|f| f.message.contains(says));
        let found = found.unwrap_or_else(|| panic!("{yaml}: {findings:#?}"));
        let line = format!("auth: {yaml}");
        let column = line.find(at).unwrap() + 1;
        assert_eq!((found.line, found.column), (8, column), "{yaml}: {found:?}");
    }
    let text =
        auth_text("{session: {login: {path: /in, form: {a: '{{ config.token }}'}}, token: /t}}")
            .replace("{t: }", "{t: , u: {base_url: 'https://b.example'}}");
    let (_, findings) = read("acme", "acme.yaml", &text, &Schemas::new());
    let findings = findings.into_sorted();
    assert!(
        findings
            .iter()
            .any(|f| f.message.contains("share a session")),
        "{findings:#?}"
    );
}

#[test]
fn auth_said_once_is_one_auth() {
    let acme = load(
        "title: T\nbase_url: https://a.example\nconfig: {token: {secret: true}}\nauth: {bearer: {token: '{{ config.token }}'}}\nstreams: {a: , b: {auth: none}, c: }\n",
    );
    let indexes: Vec<usize> = acme.streams.iter().map(|s| s.auth).collect();
    assert_eq!((acme.auths.len(), indexes), (2, vec![0, 1, 0]));
}

#[test]
fn a_body_is_json_with_templates_inside_its_texts() {
    let things = stream(
        "method: POST\nincremental: {cursor: at}\nbody:\n  n: 1e3\n  z: 007\n  t: true\n  s: 'true'\n  none: ~\n  list: [1, a, {}]\n  where: {q: \"say {{ config.q }}\", since: '{{ since }}'}\n  brace: '{literal'\n",
    );
    let text = things.request.body.unwrap().render(&scope(&[])).unwrap();
    let json: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(
        json,
        serde_json::json!({
            "n": 1000.0, "z": "007", "t": true, "s": "true", "none": null, "list": [1, "a", {}],
            "where": {"q": "say a\"b", "since": "2026-01-01"}, "brace": "{literal",
        })
    );
    assert!(text.contains(r#""n": 1e3"#), "{text}");
    assert!(!things.request.repeatable);
    let raw = stream("method: POST\nrepeatable: true\nbody: '{\"n\": {{ config.q | length }}}'\n");
    assert_eq!(
        raw.request.body.unwrap().render(&scope(&[])).unwrap(),
        r#"{"n": 3}"#
    );
    assert!(raw.request.repeatable);
}

#[test]
fn parents_may_be_named_in_parameters_columns_and_cursors() {
    let acme = load(
        "title: T\nbase_url: https://a.example\nstreams:\n  kids:\n    path: /kids\n    params: {of: '{folks.a.id}', filter: '{\"x\": 1}'}\n    headers: {X-Of: '{folks.name}'}\n    add_columns: {folk: '{folks.name}/{folks.a.id}'}\n    incremental: {cursor: folks.updated_at}\n  folks:\n",
    );
    let kids = acme.stream("kids").unwrap();
    let parent = kids.parent.as_ref().unwrap();
    assert_eq!(
        (parent.stream.as_str(), parent.fields.clone()),
        ("folks", vec!["a.id".into(), "name".into()])
    );
    assert_eq!(kids.request.params[0].1.as_str(), r#"{{ parent["a.id"] }}"#);
    assert_eq!(kids.request.params[1].1.as_str(), r#"{"x": 1}"#);
    assert_eq!(
        kids.add_columns[0]
            .1
            .render(&scope(&[("a.id", "1"), ("name", "n")]))
            .unwrap(),
        "n/1"
    );
    assert_eq!(
        kids.incremental.as_ref().unwrap().cursor,
        CursorField::Parent("updated_at".into())
    );
}

#[test]
fn times_are_written_as_the_format_says() {
    let format = |f: &str| {
        let keys = format!(
            "incremental: {{cursor: at, since_param: s, until_param: u, window: 30d, format: {f}}}"
        );
        stream(&keys).incremental.unwrap()
    };
    assert_eq!(format("epoch_ms").format, TimeFormat::EpochMillis);
    assert_eq!(
        format("'%Y-%m-%d %H:%M'").format,
        TimeFormat::Strftime("%Y-%m-%d %H:%M".into())
    );
    assert_eq!(
        format("date").window,
        Some(Duration::from_secs(30 * 86_400))
    );
}

#[test]
fn limits_may_be_several() {
    let limits = |yaml: &str| {
        let acme = load(&format!(
            "title: T\nbase_url: https://a.example\nrate_limit: {yaml}\nstreams: {{t: }}\n"
        ));
        (acme.rate_limits.len(), acme.concurrency)
    };
    assert_eq!(
        limits(
            "{limits: [{requests: 5, per: 1s}, {requests: 5000, per: 1d, burst: 10}], concurrency: 2}"
        ),
        (2, 2)
    );
    assert_eq!(limits("[{requests: 5, per: 1s}]"), (1, DEFAULT_CONCURRENCY));
    assert_eq!(limits("{concurrency: 9}"), (0, 9));
}

#[test]
fn anchors_share_what_is_said() {
    let acme = load(
        "title: T\nbase_url: https://a.example\nstreams:\n  a: {params: &p {x: '1'}}\n  b: {params: *p}\n",
    );
    assert_eq!(
        acme.streams[0].request.params,
        acme.streams[1].request.params
    );
}

/// Pieces that a file is made of, and some that break it.
const PIECES: [&str; 24] = [
    "\n",
    "\n  ",
    "\n    ",
    " ",
    ": ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "'",
    "\"",
    "~",
    "*a",
    "&a ",
    "é",
    "{{ ",
    " }}",
    "{tickets.",
    "{%",
    "streams:",
    "cursor",
    "0",
    "- ",
];

proptest::proptest! {
    #[test]
    fn no_file_makes_it_panic(edits in proptest::collection::vec((0usize..1200, 0usize..24, 0usize..8), 1..12)) {
        let mut text = ACME.to_owned();
        for (at, piece, cut) in edits {
            let at = at.min(text.len());
            let from = (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
            let to = (from + cut).min(text.len());
            let to = (to..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(from);
            text.replace_range(from..to, PIECES[piece]);
        }
        let (lowered, findings) = read("acme", "acme.yaml", &text, &Schemas::new());
        proptest::prop_assert_eq!(lowered.is_none(), findings.failed());
    }
}

#[test]
fn only_what_is_appended_goes_straight_into_its_table() {
    let yaml = |table: &str| {
        format!(
            "title: T\nbase_url: https://a.example\nstreams:\n  a:\n    incremental: {{cursor: at, since_param: since}}\n    table: {{{table}}}\n"
        )
    };
    let a = load(&yaml("write_method: insert_all")).streams.remove(0);
    assert_eq!(a.table.write_method, WriteMethod::InsertAll);
    assert_eq!(a.table.disposition, Disposition::Append);
    let text = yaml("write_method: stream, disposition: replace");
    let (_, findings) = read("a", "a.yaml", &text, &Schemas::new());
    let found = findings.into_sorted();
    let shown = found[0].to_string();
    assert!(
        shown.starts_with("a.yaml:6:27: `write_method: stream` puts the rows of stream `a` straight into its table"),
        "{shown}"
    );
    assert!(shown.contains("its disposition is `replace`"), "{shown}");
}

#[test]
fn a_login_page_gets_nothing_twice() {
    let token =
        "token_url: 'https://l.example/t', client_id: c, refresh_token: '{{ config.refresh }}'";
    for name in [
        "state",
        "redirect_uri",
        "response_type",
        "client_id",
        "scope",
        "code_challenge",
        "code_challenge_method",
    ] {
        for (login, what) in [
            (
                format!(
                    "authorization_url: 'https://l.example/a', authorization_params: {{{name}: x}}"
                ),
                "authorization_params",
            ),
            (
                format!("authorization_url: 'https://l.example/a?tenant=t&{name}=x'"),
                "authorization_url",
            ),
        ] {
            let yaml = format!("{{oauth2: {{authorization_code: {{{token}, {login}}}}}}}");
            let (lowered, findings) = read("acme", "acme.yaml", &auth_text(&yaml), &Schemas::new());
            assert!(lowered.is_none(), "{yaml}");
            let wanted = format!("`{what}` holds `{name}`");
            let findings = findings.into_sorted();
            let found = findings.iter().filter(|f| f.message.starts_with(&wanted));
            assert_eq!(found.count(), 1, "{yaml}: {findings:#?}");
        }
    }
}

#[test]
fn a_session_logs_in_at_hosts_that_are_known() {
    let at = |url: &str, more: &str| {
        let yaml = format!(
            "{{session: {{login: {{url: '{url}', body: {{a: '{{{{ config.token }}}}'}}}}, token: /t}}}}"
        );
        let text = format!("{}{more}", auth_text(&yaml));
        let (_, findings) = read("acme", "acme.yaml", &text, &Schemas::new());
        let findings = findings.into_sorted();
        findings
            .iter()
            .any(|f| f.message.contains("no host of the API"))
    };
    assert!(at("https://other.example/in", ""));
    assert!(at(
        "https://other.example:8443/in",
        "allowed_hosts: [other.example]\n"
    ));
    assert!(!at(
        "https://other.example/in",
        "allowed_hosts: [other.example]\n"
    ));
    assert!(!at(
        "https://other.example:8443/in",
        "allowed_hosts: ['other.example:8443']\n"
    ));
    assert!(!at("https://{{ config.id }}.example/in", ""));
}

#[test]
fn one_mistake_in_a_session_is_one_finding() {
    for (login, ttl) in [
        ("{path: /in, method: PUT}", "1h"),
        ("{path: /in}", "soon"),
        (
            "{path: /in, method: PUT, body: {a: '{{ config.token }}'}}",
            "1h",
        ),
    ] {
        let yaml = format!("{{session: {{login: {login}, token: /t, ttl: {ttl}}}}}");
        let (lowered, findings) = read("acme", "acme.yaml", &auth_text(&yaml), &Schemas::new());
        assert!(lowered.is_none());
        let findings = findings.into_sorted();
        let errors = findings.iter().filter(|f| f.severity == Severity::Error);
        assert_eq!(errors.count(), 1, "{yaml}: {findings:#?}");
    }
}
