//! `deploy/workflows`: what the workflows do is what the program understands.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::events::Post;
use super::{Served, shop, three};
use crate::support::fake_api::FakeApi;
use crate::support::shop::page;

fn workflow(name: &str) -> Map<String, Value> {
    let path = format!(
        "{}/deploy/workflows/{name}.yaml",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(path).unwrap();
    serde_saphyr::from_str(&text).unwrap()
}

/// Every step of a list, those inside others included, by name.
fn steps(list: &Value) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for step in list.as_array().unwrap() {
        let step = step.as_object().unwrap();
        assert_eq!(step.len(), 1, "a step has one name: {step:?}");
        let (name, what) = step.iter().next().unwrap();
        all.push((name.clone(), what.clone()));
        let branches = what["switch"].as_array().into_iter().flatten();
        let inner = [
            &what["for"]["steps"],
            &what["except"]["steps"],
            &what["steps"],
        ];
        for inner in inner.into_iter().chain(branches.map(|b| &b["steps"])) {
            if !inner.is_null() {
                all.extend(steps(inner));
            }
        }
    }
    all
}

/// Steps that others go to are there, calls are known, and so is what decides on another try.
fn is_sound(name: &str) -> Vec<(String, Value)> {
    let workflow = workflow(name);
    let parts: BTreeSet<&str> = workflow.keys().map(String::as_str).collect();
    let mut main = Vec::new();
    for (part, body) in &workflow {
        let steps = steps(&body["steps"]);
        let names: BTreeSet<&str> = steps.iter().map(|(n, _)| n.as_str()).collect();
        assert_eq!(names.len(), steps.len(), "{name}: {part} has a name twice");
        for (step, what) in &steps {
            let kinds = ["assign", "call", "for", "switch", "return", "raise", "try"];
            let kind = kinds.iter().filter(|k| what.get(**k).is_some());
            assert_eq!(kind.count(), 1, "{name}: {step}");
            let branches = what["switch"].as_array().into_iter().flatten();
            for next in branches.chain([what]).filter_map(|b| b["next"].as_str()) {
                assert!(names.contains(next), "{name}: {step} goes to `{next}`");
            }
            let tried = what.get("try").unwrap_or(what);
            if let Some(call) = tried["call"].as_str() {
                let known = [
                    "http.post",
                    "http.get",
                    "sys.sleep",
                    "googleapis.run.v2.projects.locations.jobs.run",
                ];
                assert!(known.contains(&call), "{name}: {call}");
            }
            if let Some(predicate) = what["retry"]["predicate"].as_str() {
                let sub = predicate.trim_start_matches("${").trim_end_matches('}');
                assert!(parts.contains(sub), "{name}: {predicate}");
            }
        }
        if part == "main" {
            main = steps;
        }
    }
    assert!(!main.is_empty());
    main
}

fn step<'a>(steps: &'a [(String, Value)], name: &str) -> &'a Value {
    let found = steps.iter().find(|(n, _)| n == name);
    &found.unwrap_or_else(|| panic!("no step `{name}`")).1
}

/// The expressions replaced by what they come to; one that is not among them is an error.
fn evaluated(value: &Value, known: &[(&str, Value)]) -> Value {
    match value {
        Value::String(text) if text.starts_with("${") => {
            let found = known.iter().find(|(e, _)| format!("${{{e}}}") == *text);
            found.unwrap_or_else(|| panic!("what is {text}?")).1.clone()
        }
        Value::Array(list) => list.iter().map(|v| evaluated(v, known)).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(k, v)| (k.clone(), evaluated(v, known)));
            Value::Object(fields.collect())
        }
        other => other.clone(),
    }
}

#[tokio::test]
async fn the_workflow_of_the_service_asks_and_looks_as_the_service_answers() {
    let main = is_sound("service");
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &[]).await;
    let ask = &step(&main, "ask")["try"];
    let known = |run: &str| {
        [
            ("input.url", json!(served.url)),
            ("input.url + \"/run\"", json!(format!("{}/run", served.url))),
            (
                "input.url + \"/runs/\" + answer.body.run_id",
                json!(format!("{}/runs/{run}", served.url)),
            ),
            ("input.source", json!("shop")),
            ("default(map.get(input, \"streams\"), [])", json!([])),
            ("map.get(input, \"since\")", json!("2026-01-01")),
            ("map.get(input, \"until\")", Value::Null),
            (
                "sys.get_env(\"GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID\")",
                json!("0d3c-7"),
            ),
        ]
    };
    let args = evaluated(&ask["args"], &known(""));
    assert_eq!(
        (&ask["call"], &args["auth"]),
        (
            &json!("http.post"),
            &json!({"type": "OIDC", "audience": served.url})
        )
    );
    // Longer a call may not take.
    assert!(args["timeout"].as_u64().unwrap() <= 1_800);
    let headers = args["headers"].as_object().unwrap();
    let headers: Vec<(&str, &str)> = headers
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str().unwrap()))
        .collect();
    let post = Post::of(&headers, args["body"].to_string());
    let path = args["url"]
        .as_str()
        .unwrap()
        .strip_prefix(&served.url)
        .unwrap();
    let answer = post.send(&served, path).await;
    let first = answer.json();
    assert_eq!(
        (answer.status, &first["state"]),
        (200, &json!("done")),
        "{first}"
    );
    // A try again.
    let again = post.send(&served, path).await.json();
    assert_eq!(
        (&again["run_id"], &again["duplicate"]),
        (&first["run_id"], &json!(true))
    );

    let look = &step(&main, "look")["try"];
    assert_eq!(look["call"], "http.get");
    let args = evaluated(&look["args"], &known(first["run_id"].as_str().unwrap()));
    let path = args["url"]
        .as_str()
        .unwrap()
        .strip_prefix(&served.url)
        .unwrap();
    assert_eq!(served.get(path).await, (200, first));

    // Words that it decides by.
    let text = json!(main.iter().map(|(_, s)| s).collect::<Vec<_>>()).to_string();
    for word in [
        r#"answer.body.state == \"at_work\""#,
        r#"answer.body.state == \"done\""#,
    ] {
        assert!(text.contains(word), "{word}");
    }
    drop(served);
    let slow = FakeApi::start(|request| {
        page(&three(), request).delay(std::time::Duration::from_millis(500))
    })
    .await;
    let bench = shop(&slow);
    let served = Served::start(&bench, &["--answer-within", "1ms"]).await;
    let answer = post.send(&served, "/run").await;
    assert_eq!(
        (answer.status, &answer.json()["state"]),
        (202, &json!("at_work"))
    );
    let id = answer.json()["run_id"].as_str().unwrap().to_owned();
    assert_eq!(served.ended(&id).await["state"], "done");
    assert_eq!(served.get("/runs/of-another-instance").await.0, 404);
}

#[tokio::test]
async fn the_workflow_of_the_job_gives_arguments_that_the_program_takes() {
    let main = is_sound("job");
    let run = step(&main, "run");
    assert_eq!(run["call"], "googleapis.run.v2.projects.locations.jobs.run");
    assert_eq!(
        run["args"]["body"]["overrides"]["containerOverrides"],
        json!([{"args": "${arguments}"}])
    );
    // Of what waits for operations, a year is the most.
    assert!(run["args"]["connector_params"]["timeout"].as_u64().unwrap() <= 31_536_000);
    assert_eq!(run["args"]["name"], "${name}");

    let first = step(&main, "settings")["assign"]
        .as_array()
        .unwrap()
        .last()
        .unwrap();
    let mut arguments = evaluated(
        &first["arguments"],
        &[("\"--source=\" + input.source", json!("--source=shop"))],
    );
    let bounds = step(&main, "bounds")["for"]["in"].as_array().unwrap();
    assert_eq!(bounds, &[json!("since"), json!("until")]);
    let added = |step_name: &str, known: &str, value: &str| {
        let assigned = &step(&main, step_name)["assign"][0]["arguments"];
        let expression = format!("list.concat(arguments, {known})");
        evaluated(assigned, &[(expression.as_str(), json!(value))])
    };
    let list = arguments.as_array_mut().unwrap();
    list.push(added(
        "add_stream",
        "\"--stream=\" + stream",
        "--stream=items",
    ));
    for (bound, day) in [("since", "2026-01-01"), ("until", "2026-02-01")] {
        let value = format!("--{bound}={day}");
        list.push(added(
            "add_bound",
            "\"--\" + bound + \"=\" + map.get(input, bound)",
            &value,
        ));
    }
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let arguments: Vec<&str> = list.iter().map(|a| a.as_str().unwrap()).collect();
    assert_eq!(arguments.len(), 4);
    shop(&api).run(&arguments).await.exits(0);
}
