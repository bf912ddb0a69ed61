//! Refresh tokens that are good for one time, through the program: whatever happens, each is offered
//! once, and the newest is where the next run looks for it.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::grants::bench;
use crate::support::binary::{Bench, moment};
use crate::support::fake_api::{FakeApi, Received, Reply};
use crate::support::google::{Google, VersionState};
use crate::support::shop::{item, page};
use crate::support::tables::sqlite;

/// A token endpoint whose refresh tokens are good once.
#[derive(Default)]
struct Tokens {
    /// Refresh tokens that were taken, in order.
    taken: Vec<String>,
    /// Offered after they were taken.
    again: Vec<String>,
}

impl Tokens {
    /// The `n`th token, from 0.
    fn name(n: usize) -> String {
        format!("canary-refresh-{n}-token")
    }

    /// The answer to an offer.
    fn answer(&mut self, offered: &str) -> Reply {
        let newest = Self::name(self.taken.len());
        if offered != newest {
            self.again.push(offered.to_owned());
            return Reply::json(&json!({"error": "invalid_grant", "error_description": offered}))
                .with_status(400);
        }
        self.taken.push(newest);
        self.grant()
    }

    /// What goes with the newest token.
    fn grant(&self) -> Reply {
        let n = self.taken.len();
        Reply::json(&json!({
            "access_token": format!("canary-access-{n}-token"), "token_type": "bearer",
            "expires_in": 3600, "refresh_token": Self::name(n),
        }))
    }
}

/// An API with such an endpoint, and the program that reads it.
struct World {
    api: FakeApi,
    tokens: Arc<Mutex<Tokens>>,
    bench: Bench,
}

/// What the API answers beside the endpoint: `Some` in place of what it would.
type Twist = Box<dyn Fn(&Received, &mut Tokens) -> Option<Reply> + Send + Sync>;

impl World {
    async fn new() -> Self {
        Self::with(|_, _| None).await
    }

    /// With the token in a file.
    async fn with(
        twist: impl Fn(&Received, &mut Tokens) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let world = Self::nowhere(Box::new(twist)).await;
        world.bench.write("place/token", &Tokens::name(0));
        world.bench.write(
            "drawoff.yaml",
            "sources: {shop: {secrets: {refresh: \"file://place/token\"}}}",
        );
        world
    }

    async fn nowhere(twist: Twist) -> Self {
        let tokens = Arc::new(Mutex::new(Tokens::default()));
        let state = tokens.clone();
        let rows: Vec<Value> = (1..=95).map(|id| item(id, id)).collect();
        let api = FakeApi::start(move |r: &Received| {
            let mut tokens = state.lock().unwrap();
            if let Some(reply) = twist(r, &mut tokens) {
                return reply;
            }
            if r.path == "/token" {
                assert_eq!(r.field("grant_type").as_deref(), Some("refresh_token"));
                return tokens.answer(&r.field("refresh_token").unwrap());
            }
            let newest = format!("Bearer canary-access-{}-token", tokens.taken.len());
            match r.header("authorization") {
                Some(bearer) if bearer.starts_with("Bearer canary-access-") => {
                    assert!(bearer <= newest.as_str());
                    page(&rows, r)
                }
                _ => Reply::status(401),
            }
        })
        .await;
        let auth = format!(
            "{{oauth2: {{refresh_token: {{token_url: '{}', client_id: c, client_secret: '{{{{ config.client }}}}', refresh_token: '{{{{ config.refresh }}}}'}}}}}}",
            api.at("/token")
        );
        let bench = bench(&api, &["client", "refresh"], &auth)
            .env("DRAWOFF_SHOP_CLIENT", "canary-client-secret");
        Self { api, tokens, bench }
    }

    fn file(&self) -> PathBuf {
        self.bench.path("place/token")
    }

    /// The token in the file.
    fn stored(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap()
    }

    /// So many tokens were taken, none was offered twice, and the newest is in the file.
    #[track_caller]
    fn assert_taken(&self, count: usize) {
        {
            let tokens = self.tokens.lock().unwrap();
            assert_eq!((tokens.taken.len(), &tokens.again), (count, &Vec::new()));
        }
        assert_eq!(self.stored(), Tokens::name(count));
    }

    fn rows(&self, database: &str) -> BTreeSet<i64> {
        let rows = sqlite(&self.bench.path(database), "items");
        let ids: BTreeSet<i64> = rows.iter().map(|r| r["id"].as_i64().unwrap()).collect();
        assert_eq!(ids.len(), rows.len(), "doubled");
        ids
    }
}

const RUN: [&str; 2] = ["--source", "shop"];

#[tokio::test]
async fn a_new_token_is_stored_before_the_answer_is_used() {
    let place: Arc<Mutex<PathBuf>> = Arc::default();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let (file, stored) = (place.clone(), seen.clone());
    let world = World::with(move |r, _| {
        if r.path == "/items" {
            let file = file.lock().unwrap();
            stored
                .lock()
                .unwrap()
                .push(std::fs::read_to_string(&*file).unwrap());
        }
        None
    })
    .await;
    *place.lock().unwrap() = world.file();
    for n in 1..=3 {
        seen.lock().unwrap().clear();
        let ran = world.bench.run(&["--source", "shop", "-vv"]).await.exits(0);
        assert!(!ran.all().contains("canary"), "{ran}");
        assert!(
            ran.stderr
                .contains("stored the new refresh token in `file://"),
            "{ran}"
        );
        let stored: BTreeSet<String> = seen.lock().unwrap().drain(..).collect();
        assert_eq!(
            stored,
            BTreeSet::from([Tokens::name(n)]),
            "while pages were read"
        );
        world.assert_taken(n);
    }
    let mode = std::fs::metadata(world.file())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(world.rows("drawoff.db").len(), 95);
    // Nothing is left beside it but the lock.
    let names: BTreeSet<String> = std::fs::read_dir(world.file().parent().unwrap())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(
        names,
        BTreeSet::from(["token".to_owned(), "token.lock".to_owned()])
    );
}

#[tokio::test]
async fn a_run_that_is_killed_leaves_the_newest_token() {
    let world = World::with(|r, tokens| {
        // The first page is never answered.
        (r.path == "/items" && tokens.taken.len() == 1).then(Reply::silence)
    })
    .await;
    let mut running = world.bench.spawn(&RUN);
    assert!(
        running
            .until(|| world.api.requests().iter().any(|r| r.path == "/items"))
            .await
    );
    running.kill().await;
    world.assert_taken(1);
    world.bench.run(&RUN).await.exits(0);
    world.assert_taken(2);
    assert_eq!(world.rows("drawoff.db").len(), 95);
}

#[tokio::test]
async fn many_at_once_take_turns() {
    let world = World::with(|r, tokens| {
        // Slow enough for all to meet here.
        (r.path == "/token").then(|| {
            let offered = r.field("refresh_token").unwrap();
            tokens.answer(&offered).delay(Duration::from_millis(150))
        })
    })
    .await;
    let running = [
        world
            .bench
            .spawn(&["--source", "shop", "--destination", "sqlite:a.db"]),
        world
            .bench
            .spawn(&["--source", "shop", "--destination", "sqlite:b.db"]),
        world
            .bench
            .spawn(&["--source", "shop", "--destination", "parquet:out"]),
        world.bench.spawn(&["check", "--source", "shop"]),
        world
            .bench
            .spawn(&["preview", "--source", "shop", "--stream", "items"]),
        world.bench.spawn(&[
            "--source",
            "shop",
            "--dry-run",
            "--destination",
            "sqlite:c.db",
        ]),
    ];
    let count = running.len();
    for running in running {
        running.end().await.exits(0);
    }
    world.assert_taken(count);
    assert_eq!(world.rows("a.db").len(), 95);
    assert_eq!(world.rows("b.db"), world.rows("a.db"));
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again() {
    // A server that answers a spent token once more, for a while, as many do.
    let world = World::with(|r, tokens| {
        if r.path != "/token" || !tokens.taken.is_empty() {
            return (r.path == "/token").then(|| tokens.grant());
        }
        tokens.answer(&r.field("refresh_token").unwrap());
        Some(Reply::reset())
    })
    .await;
    world.bench.run(&RUN).await.exits(0);
    world.assert_taken(1);

    // One that does not: then there is only a new login, and it is said so.
    let world = World::with(|r, tokens| {
        (r.path == "/token" && tokens.taken.is_empty()).then(|| {
            tokens.answer(&r.field("refresh_token").unwrap());
            Reply::reset()
        })
    })
    .await;
    let ran = world.bench.run(&RUN).await.exits(1);
    assert!(ran.stdout.contains("answered 400 `invalid_grant`"), "{ran}");
    assert!(
        ran.stdout
            .contains("get a new one from the API, and store it in `file://"),
        "{ran}"
    );
    let ran = ran
        .says("probably spent by this program itself")
        .says("`drawoff secrets set shop refresh`");
    assert!(!ran.all().contains("somebody else"), "{ran}");
    assert!(!ran.all().contains("canary"), "{ran}");
    // The next run cannot know: it names what may have been.
    world
        .bench
        .run(&RUN)
        .await
        .exits(1)
        .says("or by this program when the answer to an earlier run was lost")
        .says("`drawoff secrets set shop refresh`");
}

#[tokio::test]
async fn a_refused_token_is_read_once_more_before_it_is_given_up() {
    let place: Arc<Mutex<PathBuf>> = Arc::default();
    let file = place.clone();
    let world = World::with(move |r, tokens| {
        if r.path == "/token" && tokens.taken.is_empty() {
            // Somebody who knows nothing of locks has just replaced it.
            tokens.taken.push(Tokens::name(0));
            std::fs::write(&*file.lock().unwrap(), Tokens::name(1)).unwrap();
        }
        None
    })
    .await;
    *place.lock().unwrap() = world.file();
    world.bench.run(&RUN).await.exits(0);
    let tokens = world.tokens.lock().unwrap();
    assert_eq!((tokens.taken.len(), tokens.again.len()), (2, 1));
    assert_eq!(world.stored(), Tokens::name(2));
}

#[tokio::test]
async fn a_token_that_ended_is_offered_once_for_all_streams() {
    let world = World::with(|r, _| {
        (r.path == "/token")
            .then(|| Reply::json(&json!({"error": "invalid_grant"})).with_status(400))
    })
    .await;
    let ran = world.bench.run(&RUN).await.exits(1);
    assert_eq!(world.api.count(), 1, "{ran}");
    assert!(
        ran.stdout.contains("secret `refresh` of source `shop`"),
        "{ran}"
    );
    assert_eq!(world.stored(), Tokens::name(0));
}

#[tokio::test]
async fn a_place_that_cannot_be_written_costs_the_next_run_not_this_one() {
    let world = World::nowhere(Box::new(|_, _| None)).await;
    let bench = world.bench.env("DRAWOFF_SHOP_REFRESH", &Tokens::name(0));
    let ran = bench
        .run(&RUN)
        .await
        .exits(1)
        .complains("this run goes on with the access token that it has")
        .says("the one in `env://DRAWOFF_SHOP_REFRESH` is spent, and the next run cannot begin")
        .says("`env://DRAWOFF_SHOP_REFRESH` cannot be written")
        .says("secrets: {refresh: gcp://project/secret}")
        .says("✓");
    assert!(!ran.all().contains("canary"), "{ran}");
    assert_eq!(sqlite(&bench.path("drawoff.db"), "items").len(), 95);
    let ran = bench.run(&RUN).await.exits(1).says("`invalid_grant`");
    assert!(!ran.all().contains("store it in `env://"), "{ran}");
    ran.says("set `DRAWOFF_SHOP_REFRESH` to it; if the API replaces it at each use, keep it in a place that can be written");
    for args in [
        vec!["check", "--source", "shop"],
        vec!["preview", "--source", "shop", "--stream", "items"],
    ] {
        *world.tokens.lock().unwrap() = Tokens::default();
        let ran = bench.run(&args).await.exits(1);
        assert!(
            ran.all()
                .contains("is spent, and the next run cannot begin"),
            "{ran}"
        );
    }
}

#[tokio::test]
async fn what_could_not_be_stored_at_once_is_stored_at_the_end() {
    let place: Arc<Mutex<PathBuf>> = Arc::default();
    let file = place.clone();
    let world = World::with(move |r, tokens| {
        let file = file.lock().unwrap();
        if r.path == "/token" && tokens.taken.is_empty() {
            // A folder in its place: nothing can be written there.
            std::fs::remove_file(&*file).unwrap();
            std::fs::create_dir(&*file).unwrap();
        } else if r.path == "/items" && file.is_dir() {
            std::fs::remove_dir(&*file).unwrap();
            std::fs::write(&*file, Tokens::name(0)).unwrap();
        }
        None
    })
    .await;
    *place.lock().unwrap() = world.file();
    world
        .bench
        .run(&RUN)
        .await
        .exits(0)
        .complains("could not write secret file");
    world.assert_taken(1);
    world.bench.run(&RUN).await.exits(0);
    world.assert_taken(2);
}

#[tokio::test]
async fn a_token_that_stays_is_not_written() {
    for again in [json!(null), json!(Tokens::name(0))] {
        let same = again.clone();
        let answer = move |r: &Received, _: &mut Tokens| {
            let json = json!({"access_token": "canary-access-0-token", "refresh_token": same});
            (r.path == "/token").then(|| Reply::json(&json))
        };
        let world = World::with(answer.clone()).await;
        let before = std::fs::metadata(world.file()).unwrap().modified().unwrap();
        world.bench.run(&RUN).await.exits(0);
        let after = std::fs::metadata(world.file()).unwrap().modified().unwrap();
        assert_eq!(before, after, "{again}");
        // Then the environment does, too.
        let world = World::nowhere(Box::new(answer)).await;
        let bench = world.bench.env("DRAWOFF_SHOP_REFRESH", &Tokens::name(0));
        bench.run(&RUN).await.exits(0);
    }
}

#[tokio::test]
async fn tokens_that_end_in_mid_run_are_renewed_without_a_page_lost_or_doubled() {
    let served: Arc<Mutex<Vec<String>>> = Arc::default();
    let pages = served.clone();
    let world = World::with(move |r, _| {
        if r.path != "/items" {
            return None;
        }
        // Each access token is good for three pages.
        let bearer = r.header("authorization")?.to_owned();
        let mut pages = pages.lock().unwrap();
        pages.push(bearer.clone());
        let count = pages.iter().filter(|b| **b == bearer).count();
        (count > 3).then(|| Reply::status(401))
    })
    .await;
    world.bench.run(&RUN).await.exits(0);
    assert_eq!(world.rows("drawoff.db"), (1..=95).collect());
    let served = served.lock().unwrap();
    let bearers: BTreeSet<&String> = served.iter().collect();
    world.assert_taken(bearers.len());
    assert_eq!(bearers.len(), 4);
    assert_eq!(
        served.len(),
        10 + 3,
        "ten pages, three of them refused once"
    );
}

#[tokio::test]
async fn a_run_that_is_asked_to_stop_still_takes_the_answer() {
    let world = World::with(|r, tokens| {
        (r.path == "/token").then(|| {
            let offered = r.field("refresh_token").unwrap();
            tokens.answer(&offered).delay(Duration::from_millis(2_500))
        })
    })
    .await;
    let mut running = world.bench.spawn(&RUN);
    assert!(running.until(|| world.api.count() == 1).await);
    running.signal("TERM");
    let ran = running.end().await;
    assert_eq!(ran.code, Some(75), "{ran}");
    world.assert_taken(1);
}

#[tokio::test]
async fn whoever_waits_too_long_says_for_what() {
    let world = World::new().await;
    // Held by somebody who is stopped in the middle: another process, as locks go by process.
    let lock = world.bench.path("place/token.lock");
    let held = std::fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    let mut running = world.bench.spawn(&RUN);
    // It waits, and asks nothing meanwhile.
    for _ in 0..20 {
        moment(Duration::from_millis(50)).await;
        assert!(running.ended().is_none());
    }
    assert_eq!(world.api.count(), 0);
    running.signal("INT");
    let ran = running.end().await;
    assert_eq!(ran.code, Some(75), "{ran}");
    assert_eq!(world.api.count(), 0);
    held.unlock().unwrap();
    world.bench.run(&RUN).await.exits(0);
    world.assert_taken(1);
}

#[tokio::test]
async fn neither_token_goes_to_another_host() {
    let evil = FakeApi::start(|_: &Received| Reply::status(200)).await;
    let away = evil.at("/stolen").to_string();
    for path in ["/token", "/items"] {
        let away = away.clone();
        let world =
            World::with(move |r, _| (r.path == path).then(|| Reply::redirect(307, away.clone())))
                .await;
        let ran = world.bench.run(&RUN).await.exits(1);
        assert!(ran.stdout.contains("a redirect from"), "{ran}");
    }
    assert_eq!(evil.connections(), 0);
}

#[tokio::test]
async fn without_a_reference_it_is_looked_for_in_the_accounts_folder() {
    let world = World::nowhere(Box::new(|_, _| None)).await;
    world
        .bench
        .run(&RUN)
        .await
        .exits(1)
        .complains("DRAWOFF_SHOP_REFRESH");
    let path = "home/.config/drawoff/credentials/shop/refresh";
    world.bench.write(path, &Tokens::name(0));
    world.bench.run(&RUN).await.exits(0);
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    assert_eq!(read(&world.bench.path(path)), Tokens::name(1));
    // The specification's variable says otherwise.
    let elsewhere = world.bench.path("elsewhere");
    let bench = world
        .bench
        .env("XDG_CONFIG_HOME", elsewhere.to_str().unwrap());
    bench.run(&RUN).await.exits(1);
    bench.write(
        "elsewhere/drawoff/credentials/shop/refresh",
        &Tokens::name(1),
    );
    bench.run(&RUN).await.exits(0);
}

#[tokio::test]
async fn in_secret_manager_each_token_is_a_version_and_users_take_turns_by_a_lease() {
    let google = Google::start().await;
    google.put_secret("proj", "refresh", Tokens::name(0));
    let World { api, tokens, bench } = World::nowhere(Box::new(|r, tokens| {
        (r.path == "/token").then(|| {
            let offered = r.field("refresh_token").unwrap();
            tokens.answer(&offered).delay(Duration::from_millis(100))
        })
    }))
    .await;
    let bench = bench
        .env(
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER",
            &google.plain_secret_manager(),
        )
        .env("NO_GCE_CHECK", "true");
    bench.write(
        "drawoff.yaml",
        "sources: {shop: {secrets: {refresh: \"gcp://proj/refresh\"}}}",
    );
    let assert_versions = |count: usize| {
        let versions = google.versions("proj", "refresh");
        let values: Vec<String> = versions
            .iter()
            .map(|(data, _)| String::from_utf8(data.clone()).unwrap())
            .collect();
        let wanted: Vec<String> = (0..=count).map(Tokens::name).collect();
        assert_eq!(values, wanted);
        for (n, (_, state)) in versions.iter().enumerate() {
            let wanted = match n == count {
                true => VersionState::Enabled,
                false => VersionState::Disabled,
            };
            assert_eq!(*state, wanted, "{n}");
        }
        let tokens = tokens.lock().unwrap();
        assert_eq!((tokens.taken.len(), &tokens.again), (count, &Vec::new()));
    };
    bench.run(&RUN).await.exits(0);
    assert_versions(1);
    let together = [
        bench.spawn(&RUN),
        bench.spawn(&["check", "--source", "shop"]),
        bench.spawn(&["preview", "--source", "shop", "--stream", "items"]),
    ];
    for running in together {
        let ran = running.end().await.exits(0);
        assert!(!ran.all().contains("canary"), "{ran}");
    }
    assert_versions(4);
    let leases: Vec<String> = sqlite(&bench.path("drawoff.db"), "_drawoff_leases")
        .iter()
        .map(|row| row["source"].as_str().unwrap().to_owned())
        .collect();
    assert!(
        leases.contains(&"refresh token gcp://proj/refresh@latest".to_owned()),
        "{leases:?}"
    );

    // A reference that names a version would lead to the old token for ever.
    bench.write(
        "drawoff.yaml",
        "sources: {shop: {secrets: {refresh: \"gcp://proj/refresh@5\"}}}",
    );
    let before = api.count();
    for args in [
        &RUN[..],
        &["check", "--source", "shop"],
        &["preview", "--source", "shop", "--stream", "items"],
    ] {
        bench
            .run(args)
            .await
            .exits(2)
            .complains("drawoff.yaml:1:")
            .complains("`gcp://proj/refresh@5` names one version")
            .complains("hint: leave the version out of the reference");
    }
    assert_eq!(api.count(), before, "no token is spent");
    assert_versions(4);
}
