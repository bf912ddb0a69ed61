//! Google, as far as this program talks to it, strict: signatures, claims, secrets, scopes, headers
//! and forms are checked as Google checks them, and what is wrong is refused in Google's words and
//! remembered.
//!
//! It stands at Google's own host names. Programs reach it through a proxy that ends TLS under a
//! private authority, and the metadata server over plain http; both are the environment's to say, so
//! that nothing in a program has to know of it:
//!
//! ```ignore
//! let google = Google::start().await;
//! let loader = google.service_account("loader");
//! google.grant(&loader, Role::SecretAccessor);
//! google.put_secret("p", "token", "s3cr3t");
//! let bench = google.env(Bench::new(), &google.key_file(&loader));
//! // … run the program …
//! assert_eq!(google.calls_to(SECRETS)[0].who.as_ref().unwrap().name, loader);
//! google.nothing_was_wrong();
//! ```

mod answer;
mod bigquery;
mod calls;
mod certs;
mod faults;
mod files;
mod iam;
mod identities;
mod keys;
mod metadata;
mod oauth;
mod proxy;
mod secrets;
mod sts;
mod tokens;
mod world;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use tokio::net::TcpListener;

pub use answer::Answer;
pub use bigquery::HOST as BIGQUERY;
pub use calls::{Call, Proof};
pub use certs::HOST as CERTS;
pub use files::{IDENTITY_HOST, Subject, principal};
pub use iam::HOST as IAM;
pub use identities::Role;
pub use metadata::HOST as METADATA;
pub use oauth::HOST as OAUTH;
pub use secrets::{Checksum, HOST as SECRETS, VersionState};
pub use sts::HOST as STS;
pub use tokens::CLOUD_PLATFORM;

use crate::support::binary::Bench;
use crate::support::tls::Authority;
use faults::{Fault, What};
use world::{Site, World};

/// The project that everything belongs to where a test names none.
pub const PROJECT: &str = "test-project";

/// A running stand-in.
pub struct Google {
    world: Arc<World>,
    proxy: SocketAddr,
    metadata: SocketAddr,
    secret_manager: SocketAddr,
    authority: NamedTempFile,
    /// `gcloud`'s configuration: nothing.
    nothing: TempDir,
}

impl Google {
    /// Starts one; nobody is known to it yet.
    pub async fn start() -> Self {
        let world = Arc::new(World::new(PROJECT));
        let authority = Arc::new(Authority::new());
        let file = authority.file();
        let listen = || async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            (listener.local_addr().unwrap(), listener)
        };
        let (proxy, listener) = listen().await;
        proxy::serve(listener, world.clone(), authority);
        let (metadata, listener) = listen().await;
        proxy::serve_plain(listener, world.clone(), METADATA);
        let (secret_manager, listener) = listen().await;
        proxy::serve_plain(listener, world.clone(), SECRETS);
        Self {
            world,
            proxy,
            metadata,
            secret_manager,
            authority: file,
            nothing: tempfile::tempdir().unwrap(),
        }
    }

    /// The environment of a program that runs here, as the identity of a credential file.
    pub fn env(&self, bench: Bench, credentials: &Value) -> Bench {
        let path = bench.write("credentials.json", &credentials.to_string());
        self.bare_env(bench)
            .env("GOOGLE_APPLICATION_CREDENTIALS", path.to_str().unwrap())
    }

    /// The environment without a credential file. The metadata server is there once an account is
    /// attached to the machine.
    pub fn bare_env(&self, mut bench: Bench) -> Bench {
        for (name, value) in self.variables() {
            bench = bench.env(name, &value);
        }
        bench
    }

    /// The same as variables, for other programs than ours.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut all = vec![
            ("HTTPS_PROXY", self.proxy_url()),
            ("SSL_CERT_FILE", self.authority.path().display().to_string()),
            ("CLOUDSDK_CONFIG", self.nothing.path().display().to_string()),
        ];
        all.push(match self.world.state().attached {
            Some(_) => ("GCE_METADATA_HOST", self.metadata.to_string()),
            None => ("NO_GCE_CHECK", "true".to_owned()),
        });
        all
    }

    /// `http://127.0.0.1:PORT` of the proxy.
    pub fn proxy_url(&self) -> String {
        format!("http://{}", self.proxy)
    }

    /// Where the metadata server is.
    pub fn metadata_host(&self) -> String {
        self.metadata.to_string()
    }

    /// Secret Manager in plain http, which takes no credentials and asks for none.
    pub fn plain_secret_manager(&self) -> String {
        format!("http://{}/", self.secret_manager)
    }

    /// The private authority's certificate, in a file.
    pub fn authority(&self) -> &std::path::Path {
        self.authority.path()
    }

    /// Lets somebody do something.
    pub fn grant(&self, name: &str, role: Role) {
        self.world.state().grants.insert((name.to_owned(), role));
    }

    /// Makes an account the machine's own: the metadata server speaks for it.
    pub fn attach(&self, email: &str) {
        self.world.state().attached = Some(email.to_owned());
    }

    /// Ends what somebody has: keys, refresh tokens, tokens.
    pub fn revoke(&self, name: &str) {
        let mut state = self.world.state();
        if let Some(account) = state.accounts.get_mut(name) {
            account.disabled = true;
        }
        for user in state.users.iter_mut().filter(|u| u.name == name) {
            user.revoked = true;
        }
        for one in state.federated.iter_mut().filter(|f| f.name == name) {
            one.revoked = true;
        }
        state.tokens.retain(|_, issued| issued.who != name);
    }

    /// Gives a service account another key; the old one and its files are worth nothing then.
    pub fn rotate_key(&self, email: &str) {
        let mut state = self.world.state();
        let key = state.new_key();
        state.accounts.get_mut(email).unwrap().keys = vec![key];
    }

    /// Signs ID tokens with another key from now on. The old one is still published, until `forget`.
    pub fn rotate_google_keys(&self, forget: bool) {
        let mut state = self.world.state();
        let key = state.new_key();
        if forget {
            state.google_keys.clear();
        }
        state.google_keys.push(key);
    }

    /// How long tokens live that are issued from now on.
    pub fn tokens_live(&self, life: Duration) {
        self.world.state().token_life = life;
    }

    /// Calls every token over that was issued or seen so far.
    pub fn expire_tokens(&self) {
        let mut state = self.world.state();
        let issued: Vec<String> = state.tokens.keys().cloned().collect();
        let seen = std::mem::take(&mut state.seen);
        state.over.extend(issued);
        state.over.extend(seen);
    }

    /// An access token of somebody, as one of the token services would issue it.
    pub fn access_token(&self, name: &str, scopes: &[&str]) -> String {
        let mut state = self.world.state();
        let life = state.token_life;
        state
            .issue(name, scopes.iter().map(|s| (*s).to_owned()).collect(), life)
            .0
    }

    /// An ID token of Google's for a service account or a person, as it comes with a call.
    pub fn id_token(&self, name: &str, audience: &str) -> String {
        self.world.state().id_token(name, audience, true)
    }

    /// A token with these claims, signed with an account's key.
    pub fn sign_as(&self, email: &str, claims: &Value) -> String {
        self.world.state().accounts[email].keys[0].sign(claims)
    }

    /// Answers the next calls to a host, whose path begins so, with a status.
    pub fn fail(&self, host: &str, path: &str, status: u16, times: usize) {
        self.fault(host, path, times, What::Status(status));
    }

    /// Answers the next call to a host, whose path begins so, like this.
    pub fn refuse(&self, host: &str, path: &str, answer: Answer) {
        self.fault(host, path, 1, What::Refused(answer));
    }

    /// Does what the next calls to a host ask, whose path begins so, and answers with a status.
    pub fn lose(&self, host: &str, path: &str, status: u16, times: usize) {
        self.fault(host, path, times, What::Lost(status));
    }

    /// Answers every call to a host, whose path begins so, later.
    pub fn delay(&self, host: &str, path: &str, time: Duration) {
        self.fault(host, path, usize::MAX, What::Late(time));
    }

    fn fault(&self, host: &str, path: &str, times: usize, what: What) {
        self.world.state().faults.push(Fault {
            host: host.to_owned(),
            path: path.to_owned(),
            times,
            what,
        });
    }

    /// Whether the metadata server says that it is one.
    pub fn flavoured(&self, flavoured: bool) {
        self.world.state().flavoured = flavoured;
    }

    /// Sends the calls of BigQuery on to this root, once they were found to be right.
    pub fn forward_bigquery(&self, root: &str) {
        self.world.state().bigquery = Some(root.trim_end_matches('/').to_owned());
    }

    /// Another host, `https` as the rest, for everybody.
    pub fn site(&self, host: &str, handler: impl Fn(&Call) -> Answer + Send + Sync + 'static) {
        self.add_site(host, Vec::new(), &[], handler);
    }

    /// Another API of Google's, for access tokens with one of these scopes.
    pub fn api(
        &self,
        host: &str,
        scopes: &[&str],
        handler: impl Fn(&Call) -> Answer + Send + Sync + 'static,
    ) {
        self.add_site(host, Vec::new(), scopes, handler);
    }

    /// A service of Cloud Run, which lets in those who hold [`Role::Invoker`] on it and show an ID
    /// token for its own address or one of its custom audiences.
    pub fn run_service(
        &self,
        host: &str,
        audiences: &[&str],
        handler: impl Fn(&Call) -> Answer + Send + Sync + 'static,
    ) {
        let mut all = vec![format!("https://{host}")];
        all.extend(audiences.iter().map(|a| (*a).to_owned()));
        self.add_site(host, all, &[], handler);
    }

    fn add_site(
        &self,
        host: &str,
        audiences: Vec<String>,
        scopes: &[&str],
        handler: impl Fn(&Call) -> Answer + Send + Sync + 'static,
    ) {
        let site = Site {
            handler: Arc::new(handler),
            audiences,
            scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
        };
        self.world.state().sites.insert(host.to_owned(), site);
    }

    fn give_subject(&self, token: &str) {
        let token = token.to_owned();
        self.site(IDENTITY_HOST, move |call| match call.header("x-asked-by") {
            Some("drawoff's tests") if call.line() == format!("GET {IDENTITY_HOST}/subject") => {
                Answer::json(&json!({"id_token": token}))
            }
            _ => Answer::api(403, "a header is missing").wrong(),
        });
    }

    /// Everything asked so far.
    pub fn calls(&self) -> Vec<Call> {
        self.world.state().calls.clone()
    }

    /// Everything asked of one host so far.
    pub fn calls_to(&self, host: &str) -> Vec<Call> {
        self.calls()
            .into_iter()
            .filter(|c| c.host == host)
            .collect()
    }

    /// What was wrong so far, a line each.
    pub fn wrong(&self) -> Vec<String> {
        self.world.state().wrong.clone()
    }

    /// Panics, showing it, if anything was wrong so far.
    #[track_caller]
    pub fn nothing_was_wrong(&self) {
        assert_eq!(self.wrong(), Vec::<String>::new());
    }
}
