//! Everything that the stand-in knows, and the way of a request through it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::Response;

use super::answer::{Answer, Outcome};
use super::calls::Call;
use super::faults::Fault;
use super::identities::{Account, Federated, Role, User};
use super::keys::SigningKey;
use super::secrets::Secret;
use super::tokens::Issued;
use super::{bigquery, certs, iam, metadata, oauth, secrets, sts};
use crate::support::binary::moment;

/// Answers for a host that a test has registered.
pub type Handler = Arc<dyn Fn(&Call) -> Answer + Send + Sync>;

/// A host of a test's own.
#[derive(Clone)]
pub struct Site {
    pub handler: Handler,
    /// Who may ask: those with an ID token for one of these audiences, as at Cloud Run. Empty: all.
    pub audiences: Vec<String>,
    /// Scopes of which an access token must have one, as at an API of Google's. Empty: no token is
    /// looked at.
    pub scopes: Vec<String>,
}

/// The stand-in's memory.
pub struct World(Mutex<State>);

/// What is remembered.
pub struct State {
    /// The keys under which Google signs ID tokens, the newest last.
    pub google_keys: Vec<SigningKey>,
    pub keys_made: usize,
    pub accounts: BTreeMap<String, Account>,
    pub users: Vec<User>,
    pub federated: Vec<Federated>,
    pub grants: BTreeSet<(String, Role)>,
    pub tokens: BTreeMap<String, Issued>,
    /// Tokens that were seen in `Authorization`.
    pub seen: BTreeSet<String>,
    /// Tokens that are over before their time.
    pub over: BTreeSet<String>,
    pub token_life: Duration,
    pub secrets: BTreeMap<String, Secret>,
    /// The service account of the machine.
    pub attached: Option<String>,
    /// Whether the metadata server says that it is one.
    pub flavoured: bool,
    pub project: String,
    pub faults: Vec<Fault>,
    pub sites: BTreeMap<String, Site>,
    /// Where calls of BigQuery go on to.
    pub bigquery: Option<String>,
    pub calls: Vec<Call>,
    pub wrong: Vec<String>,
}

impl State {
    /// A key that nobody else here has.
    pub fn new_key(&mut self) -> SigningKey {
        self.keys_made += 1;
        SigningKey::new(self.keys_made - 1)
    }

    /// Whether somebody holds a role.
    pub fn holds(&self, name: &str, role: &Role) -> bool {
        self.grants.contains(&(name.to_owned(), role.clone()))
    }
}

impl World {
    pub fn new(project: &str) -> Self {
        Self(Mutex::new(State {
            // The first key of a process is Google's.
            google_keys: vec![SigningKey::new(0)],
            keys_made: 1,
            accounts: BTreeMap::new(),
            users: Vec::new(),
            federated: Vec::new(),
            grants: BTreeSet::new(),
            tokens: BTreeMap::new(),
            seen: BTreeSet::new(),
            over: BTreeSet::new(),
            token_life: Duration::from_secs(3599),
            secrets: BTreeMap::new(),
            attached: None,
            flavoured: true,
            project: project.to_owned(),
            faults: Vec::new(),
            sites: BTreeMap::new(),
            bigquery: None,
            calls: Vec::new(),
            wrong: Vec::new(),
        }))
    }

    /// The memory.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Notes what should not have been.
    pub fn complain(&self, what: &str) {
        self.state().wrong.push(what.to_owned());
    }

    /// Whether there is such a host.
    pub fn has_host(&self, host: &str) -> bool {
        matches!(
            host,
            oauth::HOST | certs::HOST | iam::HOST | sts::HOST | bigquery::HOST
        ) || secrets::location(host).is_some()
            || self.state().sites.contains_key(host)
    }

    /// Answers a request to `host`, and remembers it.
    pub async fn serve(&self, host: &str, secure: bool, request: Request) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let mut call = Call {
            host: host.to_owned(),
            secure,
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers,
            body: axum::body::to_bytes(body, 64 << 20)
                .await
                .unwrap_or_default(),
            who: None,
            status: 0,
        };
        let (pause, failure) = self.state().fault(&call);
        moment(pause).await;
        let answer = match failure {
            Some(answer) => answer,
            None => self.route(&mut call).await.unwrap_or_else(|no| no),
        };
        let mut state = self.state();
        let answer = state.loss(&call).unwrap_or(answer);
        if let Some(wrong) = &answer.wrong {
            let text = format!("{}: {} {wrong}", call.line(), answer.status);
            state.wrong.push(text);
        }
        call.status = answer.status;
        state.calls.push(call);
        answer.into_response()
    }

    async fn route(&self, call: &mut Call) -> Outcome {
        let named = call.header("host").unwrap_or_default();
        if call
            .bearer()
            .is_some_and(|_| call.headers.get_all("authorization").iter().count() > 1)
        {
            return Err(Answer::api(400, "more than one `Authorization`").wrong());
        }
        match call.host.as_str() {
            metadata::HOST => return Ok(metadata::answer(&mut self.state(), call)),
            host if call.secure && named != host => {
                let text = format!("`Host: {named}` on a connection to {host}");
                return Err(Answer::api(421, &text).wrong());
            }
            _ => {}
        }
        match call.host.as_str() {
            oauth::HOST => oauth::answer(&mut self.state(), call),
            certs::HOST => certs::answer(&mut self.state(), call),
            iam::HOST => iam::answer(&mut self.state(), call),
            sts::HOST => sts::answer(&mut self.state(), call),
            bigquery::HOST => bigquery::answer(self, call).await,
            host if secrets::location(host).is_some() => secrets::answer(&mut self.state(), call),
            host => {
                let site = self.state().sites.get(host).cloned();
                let site = site.ok_or_else(|| Answer::page(404, "no such host").wrong())?;
                if !site.audiences.is_empty() {
                    self.state().admit(call, &site.audiences)?;
                }
                if !site.scopes.is_empty() {
                    let scopes: Vec<&str> = site.scopes.iter().map(String::as_str).collect();
                    self.state().authenticate(call, &scopes)?;
                }
                Ok((site.handler)(call))
            }
        }
    }
}
