//! `drawoff auth`: a person logs in once, in a browser, which comes back to this machine; and out.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::App;
use super::credentials::Lowering;
use super::open::http_options;
use super::vault::{TokenVault, quiet};
use crate::auth::Vault as _;
use crate::auth::login::{CALLBACK, Came, Login, revoke};
use crate::connector::template::Scope;
use crate::connector::{Auth, AuthorizationCode, Grant, OAuth};
use crate::error::{Error, ErrorKind, Result};
use crate::http::HttpOptions;
use crate::secrets::resolve::{SecretLookup, resolve};
use crate::secrets::{SecretRef, SecretWriter as _};
use crate::settings::{SourceConfig, Values};

/// Longest that the exchange of a code takes.
const EXCHANGE: Duration = Duration::from_secs(60);

/// Longest that the last page takes to get to the browser.
const LAST_PAGE: Duration = Duration::from_secs(2);

/// How to log in.
#[derive(Clone, Debug)]
pub struct LoginOptions {
    /// Source.
    pub source: String,
    /// A stream that uses the credentials, where the source has several logins.
    pub stream: Option<String>,
    /// Port that the browser comes back to; the connector's, else a free one.
    pub port: Option<u16>,
    /// How long one waits for the person.
    pub patience: Duration,
}

/// How to log out.
#[derive(Clone, Debug)]
pub struct LogoutOptions {
    /// Source.
    pub source: String,
    /// A stream that uses the credentials, where the source has several logins.
    pub stream: Option<String>,
    /// Have the API revoke the token first, where the connector says how.
    pub revoke: bool,
}

/// What is shown while a person logs in.
#[derive(Clone, Copy, Debug)]
pub enum LoginShown<'a> {
    /// The page to open.
    Open(&'a Url),
    /// A text that was pasted is no address of this login.
    NotIt,
}

/// A source whose refresh token is put in its place, or removed.
struct Opened {
    config: SourceConfig,
    scope: Scope,
    http: HttpOptions,
    index: usize,
}

impl App {
    /// Logs a person in: shows the page to open by `show`, waits for the browser or for its last
    /// address in `pasted`, and stores the refresh token. Where it is stored.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: the source has no login, its token's place cannot be written, the port is
    /// taken; [`ErrorKind::Auth`]: the person or the server refused; [`ErrorKind::Interrupted`].
    pub async fn login(
        &self,
        options: &LoginOptions,
        show: impl Fn(LoginShown<'_>),
        mut pasted: mpsc::Receiver<String>,
        cancel: CancellationToken,
    ) -> Result<String> {
        let opened = self
            .opened(&options.source, options.stream.as_deref(), |auth| {
                auth.login().is_some()
            })
            .await?;
        let (oauth, login) = opened.authorization_code()?;
        let key = &login.refresh_token;
        let place = self.place_to_write(&opened.config, key)?;
        // A login whose token cannot be stored is one for nothing.
        self.secrets.writable(&place).await.map_err(|e| {
            e.context(format!(
                "the refresh token of source `{}` could not be stored, so nobody is asked to log in",
                opened.config.name
            ))
        })?;
        let vault = TokenVault::new(self, &opened.config, key, place, true);
        let config = opened.lowering(self).login(oauth, login)?;
        let port = options.port.or(config.redirect_port).unwrap_or(0);
        let listener = TcpListener::bind(("127.0.0.1", port)).await.map_err(|e| {
            Error::config(format!(
                "could not listen on port {port} of this machine, which the browser is to come back to: {e}"
            ))
            .hint("end what uses the port, or name another with `--port`, if the API allows it")
        })?;
        let port = listener
            .local_addr()
            .map_err(|e| Error::new(ErrorKind::Bug, "a socket without an address").source(e))?
            .port();
        let login = Login::begin(config, port, &opened.http)?;
        let loopback = Loopback::start(listener);
        show(LoginShown::Open(&login.url));
        let outcome = self
            .wait(options, &login, &vault, loopback, show, &mut pasted, cancel)
            .await;
        outcome.map(|()| vault.place().to_string())
    }

    #[allow(clippy::too_many_arguments)]
    async fn wait(
        &self,
        options: &LoginOptions,
        login: &Login,
        vault: &TokenVault,
        mut loopback: Loopback,
        show: impl Fn(LoginShown<'_>),
        pasted: &mut mpsc::Receiver<String>,
        cancel: CancellationToken,
    ) -> Result<()> {
        let late = self.clock.sleep(options.patience);
        tokio::pin!(late);
        let mut may_paste = true;
        loop {
            let (address, reply) = tokio::select! {
                visit = loopback.visits.recv() => match visit {
                    Some(visit) => (visit.address, Some(visit.reply)),
                    None => return Err(Error::new(ErrorKind::Bug, "the loopback server ended")),
                },
                line = pasted.recv(), if may_paste => match line {
                    // A line may hold the code: never repeat it.
                    Some(line) => match Url::parse(line.trim()) {
                        Ok(address) => (address, None),
                        Err(_) => {
                            show(LoginShown::NotIt);
                            continue;
                        }
                    },
                    None => {
                        may_paste = false;
                        continue;
                    }
                },
                () = cancel.cancelled() => return Err(Error::new(
                    ErrorKind::Interrupted,
                    "the login was given up; nothing was stored",
                )),
                () = &mut late => return Err(Error::new(
                    ErrorKind::Interrupted,
                    format!("nobody logged in within {} seconds; nothing was stored", options.patience.as_secs()),
                )
                .hint("start it again; `--timeout` waits longer")),
            };
            let outcome = match login.read(&address) {
                Came::Stray => {
                    match reply {
                        Some(reply) => drop(reply.send(Page::STRAY)),
                        None => show(LoginShown::NotIt),
                    }
                    continue;
                }
                Came::Refused(error) => Err(error),
                Came::Code(code) => self.finish(login, vault, &code).await,
            };
            if let Some(reply) = reply {
                let page = match &outcome {
                    Ok(()) => Page::DONE,
                    Err(error) => Page::failed(error),
                };
                let _ = reply.send(page);
            }
            loopback.end(self).await;
            return outcome;
        }
    }

    /// Exchanges the code and stores what it brings.
    async fn finish(
        &self,
        login: &Login,
        vault: &TokenVault,
        code: &secrecy::SecretString,
    ) -> Result<()> {
        let mut context = quiet();
        context.deadline = self.clock.instant().checked_add(EXCHANGE);
        let token = login.exchange(code, &context).await?;
        let hold = vault.hold(&context).await?;
        let stored = vault.begin(&token).await;
        hold.end().await;
        stored.map_err(|e| e.context("the login worked, but its token could not be stored"))
    }

    /// Removes a source's refresh token, after revoking it where the connector says how. What was done,
    /// a sentence each.
    ///
    /// # Errors
    /// [`ErrorKind::Config`]: the source has no refresh token; the token could not be read, revoked or
    /// removed.
    pub async fn logout(&self, options: &LogoutOptions) -> Result<Vec<String>> {
        let source = options.source.as_str();
        let opened = self
            .opened(source, options.stream.as_deref(), |auth| {
                auth.refresh_key().is_some()
            })
            .await?;
        let auth = &opened.config.connector.auths[opened.index];
        let (Auth::OAuth(oauth), Some(key)) = (auth, auth.refresh_key()) else {
            return Err(Error::new(ErrorKind::Bug, "a refresh token without OAuth"));
        };
        let lookup = self.lookup(source, key)?;
        let lookups = [(key.to_owned(), lookup)].into();
        let found = resolve(source, &lookups, &self.secrets).await?;
        let Some(found) = found.get(key) else {
            return Err(Error::config(format!("source `{source}` has no `{key}`")));
        };
        let vault = TokenVault::new(self, &opened.config, key, found.place.clone(), true);
        let lowering = opened.lowering(self);
        let revocation_url = match &oauth.grant {
            Grant::RefreshToken { revocation_url, .. } => revocation_url.as_ref(),
            Grant::AuthorizationCode(login) => login.revocation_url.as_ref(),
            _ => None,
        };
        let revocation_url = revocation_url
            .map(|url| lowering.url(url, "revocation URL"))
            .transpose()?;
        let client = lowering.client(oauth)?;
        let context = quiet();
        let hold = vault.hold(&context).await?;
        let done = async {
            let mut done = Vec::new();
            match revocation_url {
                Some(_) if !options.revoke => done.push(
                    "did not ask the API to revoke the token: it takes it until it is revoked there"
                        .to_owned(),
                ),
                Some(url) => {
                    let token = vault.newest().await?.value;
                    revoke(client, url, &token, &opened.http, &context)
                        .await
                        .map_err(|e| {
                            let hint = e.find_hint().map(|hint| format!("{hint}; "));
                            let hint = format!(
                                "{}`drawoff auth logout --source {source} --no-revoke` removes it here all the same; then revoke it at the API by hand",
                                hint.unwrap_or_default()
                            );
                            e.context("could not revoke the refresh token; it stays where it is")
                                .hint(hint)
                        })?;
                    done.push("revoked the refresh token at the API".to_owned());
                }
                None => done.push(
                    "the connector names no `revocation_url`: the API takes the token until it is revoked there"
                        .to_owned(),
                ),
            }
            vault.remove().await?;
            done.push(match vault.place() {
                SecretRef::Gcp { .. } => format!("disabled its version in `{}`", vault.place()),
                place => format!("removed `{place}`"),
            });
            Ok(done)
        }
        .await;
        hold.end().await;
        done
    }

    /// The source with the one of its credentials that fits, its other secrets read.
    async fn opened(
        &self,
        source: &str,
        stream: Option<&str>,
        fits: impl Fn(&Auth) -> bool,
    ) -> Result<Opened> {
        let mut config = self.settings.source(source)?;
        let connector = &config.connector;
        let index = match stream {
            Some(name) => {
                let stream = connector.stream(name).ok_or_else(|| {
                    Error::config(format!("source `{source}` has no stream `{name}`"))
                })?;
                Some(stream.auth).filter(|index| connector.auths.get(*index).is_some_and(&fits))
            }
            None => {
                let mut all = (0..connector.auths.len()).filter(|i| fits(&connector.auths[*i]));
                let first = all.next();
                if all.next().is_some() {
                    return Err(Error::config(format!(
                        "source `{source}` has more than one login"
                    ))
                    .hint("say which: `--stream NAME` takes that stream's"));
                }
                first
            }
        };
        let index = index.ok_or_else(|| {
            Error::config(format!(
                "there is nothing to log in to or out of for source `{source}`"
            ))
            .hint("that takes a connector with `auth: {oauth2: {authorization_code: …}}`")
        })?;
        // The token that is to come is not there yet, or is not good any more.
        let keys: Vec<String> = connector
            .auths
            .iter()
            .filter_map(|auth| auth.refresh_key().map(str::to_owned))
            .collect();
        config.secrets.retain(|key, _| !keys.contains(key));
        let Values { config: values, .. } = config.values(&self.secrets).await?;
        let scope = Scope {
            config: values,
            ..Scope::default()
        };
        Ok(Opened {
            http: http_options(&config, &scope, self)?,
            config,
            scope,
            index,
        })
    }

    fn lookup(&self, source: &str, key: &str) -> Result<SecretLookup> {
        let config = self.settings.source(source)?;
        config.secrets.get(key).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::Bug,
                format!("`{key}` of source `{source}` is looked for nowhere"),
            )
        })
    }

    /// Where the result of a login is stored: in the place that is named, else in this account's
    /// folder of configuration.
    fn place_to_write(&self, config: &SourceConfig, key: &str) -> Result<SecretRef> {
        let source = &config.name;
        let name_one = format!(
            "name a place that can be written: `sources: {{{source}: {{secrets: {{{key}: gcp://project/secret}}}}}}`, or `file:///path`"
        );
        let lookup = self.lookup(source, key)?;
        if lookup.named {
            return match lookup.places.into_iter().next() {
                Some(SecretRef::Env(name)) => Err(Error::config(format!(
                    "`{key}` of source `{source}` is in environment variable `{name}`, where no login can be stored"
                ))
                .hint(name_one)),
                Some(place) => Ok(place),
                None => Err(Error::new(ErrorKind::Bug, "a reference without a place")),
            };
        }
        if let Some(name) = lookup.variable()
            && self.environment.get(name).is_some()
        {
            return Err(Error::config(format!(
                "environment variable `{name}` is set, and would be used in place of what a login stores"
            ))
            .hint("unset it"));
        }
        lookup
            .places
            .into_iter()
            .find(|place| matches!(place, SecretRef::File(_)))
            .ok_or_else(|| {
                Error::config("neither `XDG_CONFIG_HOME` nor `HOME` is set, so there is no folder for the login")
                    .hint(name_one)
            })
    }
}

impl Opened {
    fn authorization_code(&self) -> Result<(&OAuth, &AuthorizationCode)> {
        let auth = &self.config.connector.auths[self.index];
        match (auth, auth.login()) {
            (Auth::OAuth(oauth), Some(login)) => Ok((oauth, login)),
            _ => Err(Error::new(ErrorKind::Bug, "a login without OAuth")),
        }
    }

    fn lowering<'a>(&'a self, app: &'a App) -> Lowering<'a> {
        static NONE: std::collections::BTreeMap<String, SecretRef> =
            std::collections::BTreeMap::new();
        Lowering {
            app,
            config: &self.config,
            scope: &self.scope,
            places: &NONE,
            vaults: Vec::new(),
        }
    }
}

/// A browser that came back.
struct Visit {
    address: Url,
    reply: oneshot::Sender<Page>,
}

/// What it is shown.
struct Page {
    status: StatusCode,
    title: &'static str,
    text: String,
}

impl Page {
    const DONE: Self = Self {
        status: StatusCode::OK,
        title: "You are logged in",
        text: String::new(),
    };

    const STRAY: Self = Self {
        status: StatusCode::BAD_REQUEST,
        title: "This is not the answer to the login that waits here",
        text: String::new(),
    };

    fn failed(error: &Error) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            title: "The login did not work",
            text: crate::telemetry::redact::scrub(&error.chain()),
        }
    }
}

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let escaped = self
            .text
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        let text = match (escaped.is_empty(), self.status) {
            (true, StatusCode::OK) => {
                "drawoff has what it needs. You can close this page.".to_owned()
            }
            (true, _) => "Start the login again, or use the newest page that it opened.".to_owned(),
            (false, _) => format!("{escaped}. The terminal says what to do."),
        };
        let body = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body><h1>{title}</h1><p>{text}</p></body></html>\n",
            title = self.title
        );
        let headers = [
            (header::CONTENT_TYPE, "text/html; charset=utf-8"),
            // The address holds the code: it is to go nowhere and to stay nowhere.
            (
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; frame-ancestors 'none'",
            ),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
            (header::CONNECTION, "close"),
        ];
        (self.status, headers, body).into_response()
    }
}

/// Waits on this machine for the browser to come back.
struct Loopback {
    visits: mpsc::Receiver<Visit>,
    stop: CancellationToken,
    serving: tokio_util::task::AbortOnDropHandle<()>,
}

impl Loopback {
    fn start(listener: TcpListener) -> Self {
        let (visitors, visits) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let app = Router::new()
            .route(CALLBACK, get(visit))
            .with_state(visitors);
        let stopped = stop.clone().cancelled_owned();
        let serving = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
            let served = axum::serve(listener, app)
                .with_graceful_shutdown(stopped)
                .await;
            if let Err(e) = served {
                tracing::debug!("the loopback server ended: {e}");
            }
        }));
        Self {
            visits,
            stop,
            serving,
        }
    }

    /// Lets the last page get to the browser.
    async fn end(self, app: &App) {
        self.stop.cancel();
        tokio::select! {
            _ = self.serving => {}
            () = app.clock.sleep(LAST_PAGE) => {}
        }
    }
}

async fn visit(State(visitors): State<mpsc::Sender<Visit>>, uri: Uri) -> Response {
    let Ok(address) = Url::parse(&format!("http://127.0.0.1{uri}")) else {
        return Page::STRAY.into_response();
    };
    let (reply, page) = oneshot::channel();
    if visitors.send(Visit { address, reply }).await.is_err() {
        return Page::STRAY.into_response();
    }
    page.await.unwrap_or(Page::STRAY).into_response()
}
