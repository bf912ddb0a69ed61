//! What a service takes on at once, how long a client may dawdle, and how it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::duplicates::{firing, second_request, slow_shop};
use super::events::Post;
use super::{guarded_with, shop, three};
use crate::support::binary::{STOPS_WITHIN, moment};
use crate::support::fake_api::FakeApi;
use crate::support::google::{CERTS, Google};
use crate::support::served::Served;
use crate::support::shop::page;

#[tokio::test]
async fn no_more_runs_are_at_work_than_may_be() {
    let open = Arc::new(AtomicBool::new(false));
    let api = slow_shop(&open).await;
    let bench = shop(&api);
    let connector = std::fs::read_to_string(bench.path("connectors/shop.yaml")).unwrap();
    bench.connector("other", &connector);
    let served = Served::start(&bench, &["--answer-within", "100ms", "--max-runs", "1"]).await;
    let (status, first) = served.run(r#"{"source": "shop"}"#).await;
    assert_eq!(status, 202, "{first}");
    let other = Post::of(&[], r#"{"source": "other"}"#);
    let answer = other.send(&served, "/run").await;
    assert_eq!(
        (answer.status, answer.header("retry-after")),
        (429, "30"),
        "{}",
        answer.json()
    );
    // The source that is at work is still named.
    assert_eq!(served.run(r#"{"source": "shop"}"#).await.0, 409);

    open.store(true, Ordering::SeqCst);
    served.ended(first["run_id"].as_str().unwrap()).await;
    let answer = other.send(&served, "/run").await;
    assert!(matches!(answer.status, 200 | 202), "{}", answer.json());
}

#[tokio::test]
async fn a_loop_of_bad_callers_is_turned_away_unseen() {
    let google = Google::start().await;
    let scheduler = google.service_account("scheduler");
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let few = ["--max-requests", "5"];
    let (_bench, served) = guarded_with(&google, &api, &scheduler, &few).await;
    let token = format!(
        "Bearer {}",
        google.id_token(&scheduler, "https://elsewhere")
    );
    let headers = [("authorization", token.as_str())];
    let begun = Instant::now();
    let sent = (0..40).map(|_| served.run_with(&headers, "{}"));
    let mut counts = [0; 2];
    for answer in futures::future::join_all(sent).await {
        match answer.status {
            401 => counts[0] += 1,
            429 => {
                assert_eq!(answer.header("retry-after"), "1");
                let said = answer.json()["error"]["message"].to_string();
                assert!(said.contains("more requests come"), "{said}");
                counts[1] += 1;
            }
            other => panic!("{other}"),
        }
    }
    // Five at once and five a second are let through.
    let let_through = 5 + 5 * begun.elapsed().as_secs().saturating_add(1);
    assert!(counts[0] >= 5 && counts[0] <= let_through, "{counts:?}");
    assert!(counts[1] > 0, "{counts:?}");
    assert!(google.calls_to(CERTS).len() <= 1);
    // Whether it is up can always be asked.
    for _ in 0..100 {
        assert_eq!(served.get("/healthz").await.0, 200);
    }
    moment(Duration::from_millis(1_100)).await;
    assert_eq!(served.get("/runs/x").await.0, 401);
}

/// Sends bytes, and reads what comes until the other side hangs up; how long that took.
async fn dawdle(served: &Served, sent: &str) -> (String, Duration) {
    let mut socket = TcpStream::connect(served.address()).await.unwrap();
    let begun = Instant::now();
    socket.write_all(sent.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let hung_up = tokio::time::timeout(Duration::from_secs(60), socket.read_to_end(&mut heard));
    let _ = hung_up.await.expect("it should hang up");
    (
        String::from_utf8_lossy(&heard).into_owned(),
        begun.elapsed(),
    )
}

#[tokio::test]
async fn slow_clients_are_not_waited_for() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &[]).await;
    let body = "POST /run HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"source\"";
    let head = "POST /run HTTP/1.1\r\nhost: x\r\nx-slow: ";
    let chunk = "POST /run HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"sou";
    let many = futures::future::join_all((0..200).map(|_| dawdle(&served, head)));
    let (body, chunk, silent, many, ()) = tokio::join!(
        dawdle(&served, body),
        dawdle(&served, chunk),
        dawdle(&served, ""),
        many,
        async {
            // Others are served meanwhile.
            for _ in 0..20 {
                assert_eq!(served.get("/healthz").await.0, 200);
                moment(Duration::from_millis(50)).await;
            }
            assert_eq!(served.run(r#"{"source": "shop"}"#).await.0, 200);
        }
    );
    for (heard, took) in [&body, &chunk] {
        assert!(heard.starts_with("HTTP/1.1 408"), "{heard}");
        assert!(heard.contains("did not come in time"), "{heard}");
        assert!(*took >= Duration::from_secs(14), "{took:?}");
    }
    for (heard, took) in many.iter().chain([&silent]) {
        assert!(!heard.contains("200"), "{heard}");
        assert!(*took >= Duration::from_secs(14), "{took:?}");
    }
    let large = format!(
        "GET /healthz HTTP/1.1\r\nhost: x\r\nx-large: {}",
        "x".repeat(200_000)
    );
    let mut socket = TcpStream::connect(served.address()).await.unwrap();
    let _ = socket.write_all(large.as_bytes()).await;
    let mut heard = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut heard)).await;
    let heard = String::from_utf8_lossy(&heard);
    assert!(
        heard.is_empty() || heard.starts_with("HTTP/1.1 431"),
        "{heard}"
    );
}

#[tokio::test]
async fn who_never_reads_an_answer_gives_its_place_back() {
    let api = FakeApi::start(|request| page(&three(), request)).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &[]).await;
    let socket = TcpSocket::new_v4().unwrap();
    // What is not read soon fills it.
    socket.set_recv_buffer_size(4 << 10).unwrap();
    let address = served.address().parse().unwrap();
    let mut socket = socket.connect(address).await.unwrap();
    let requests = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1_000);
    let mut taken = Instant::now();
    let hung_up = async {
        while socket.write_all(requests.as_bytes()).await.is_ok() {
            taken = Instant::now();
        }
    };
    let hung_up = tokio::time::timeout(Duration::from_secs(120), hung_up).await;
    hung_up.expect("it should hang up");
    let took = taken.elapsed();
    assert!(took >= Duration::from_secs(10), "{took:?}");
    assert_eq!(served.get("/healthz").await.0, 200);
}

#[tokio::test]
async fn all_who_wait_get_an_answer_when_the_process_is_told_to_end() {
    let open = Arc::new(AtomicBool::new(false));
    let api = slow_shop(&open).await;
    let bench = shop(&api);
    let served = Served::start(&bench, &[]).await;
    let other = Served::start(&bench, &[]).await;
    let post = firing("2026-01-01T00:00:00Z");
    // One that holds its connection open must not hold up the end.
    let mut idle = TcpStream::connect(served.address()).await.unwrap();
    idle.write_all(b"POST /run HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    let ending = async {
        second_request(&api).await;
        moment(Duration::from_millis(700)).await;
        other.running.signal("TERM");
        served.running.signal("TERM");
        Instant::now()
    };
    let later = async {
        moment(Duration::from_millis(300)).await;
        tokio::join!(post.send(&served, "/run"), post.send(&other, "/"))
    };
    let (first, (second, third), begun) = tokio::join!(post.send(&served, "/run"), later, ending);
    for answer in [&first, &second, &third] {
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, "30"),
            "{}",
            answer.json()
        );
    }
    assert_eq!(first.json()["run_id"], second.json()["run_id"]);
    assert_eq!(second.json()["duplicate"], json!(true));
    served.running.end().await.exits(0);
    other.running.end().await.exits(0);
    assert!(begun.elapsed() < STOPS_WITHIN, "{:?}", begun.elapsed());
    drop(idle);
}
