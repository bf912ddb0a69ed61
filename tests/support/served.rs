//! `drawoff serve` at work, and a client for it.

use serde_json::Value;

use super::binary::{Bench, Ran, Running, eventually};
use super::plain_http::{self, Answer};

/// A service at work, and a client for it.
pub struct Served {
    pub running: Running,
    pub url: String,
    pub client: reqwest::Client,
}

impl Served {
    /// Starts it with these flags.
    pub async fn start(bench: &Bench, args: &[&str]) -> Self {
        let mut running = bench.spawn(&[&["serve", "--port", "0"], args].concat());
        let line = running.line("serving on port").await;
        let port: u16 = line
            .split("serving on port ")
            .nth(1)
            .and_then(|rest| rest.split([' ', ':']).next())
            .unwrap()
            .parse()
            .unwrap();
        Self {
            running,
            url: format!("http://127.0.0.1:{port}"),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }

    /// Its `host:port`.
    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// Asks for a run.
    pub async fn run(&self, body: &str) -> (u16, Value) {
        short(self.run_with(&[], body).await)
    }

    /// Asks for a run of `shop` with this authorization.
    pub async fn run_as(&self, authorization: &str) -> (u16, Value) {
        let headers = [("authorization", authorization)];
        short(self.run_with(&headers, r#"{"source": "shop"}"#).await)
    }

    /// Asks for a run with these headers.
    pub async fn run_with(&self, headers: &[(&str, &str)], body: &str) -> Answer {
        let url = format!("{}/run", self.url);
        let mut request = self.client.post(url).body(body.to_owned());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        plain_http::send(request).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        short(plain_http::send(self.client.get(format!("{}{path}", self.url))).await)
    }

    /// Waits until this run is at work no more; what is said of it then.
    pub async fn ended(&self, id: &str) -> Value {
        eventually("the end of the run", async || {
            let (_, seen) = self.get(&format!("/runs/{id}")).await;
            (seen["state"] != "at_work").then_some(seen)
        })
        .await
    }

    /// Asks it to end, and waits for that.
    pub async fn end(self) -> Ran {
        self.running.signal("TERM");
        self.running.end().await
    }
}

fn short(answer: Answer) -> (u16, Value) {
    (answer.status, answer.json())
}
