//! What the engine executes: a small algebra of request template, credentials, page transition,
//! partition source, record path, cursor and table. Nothing here knows how a connector was written
//! down; [`super::syntax`] lowers YAML into it, and another front end may lower another language.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;

use super::template::Template;
pub use crate::auth::{JwtAlgorithm, TokenBody, TokenPlace, TokenSpot};
use crate::http::RateLimit;
use crate::schema::TableSchema;
use crate::schema::landing::{Contract, Disposition, Partitioning, WriteMethod};

/// A third-party API, declared.
#[derive(Clone, Debug)]
pub struct Connector {
    /// Name: the file's stem.
    pub name: String,
    /// One line for people.
    pub title: String,
    /// Longer text for people.
    pub description: String,
    /// Where the API is documented.
    pub docs: Option<String>,
    /// What a source must or may configure, in the file's order.
    pub config: Vec<ConfigKey>,
    /// Hosts (`host` or `host:port`) beside the base URL's own that requests may go to, with credentials.
    pub allowed_hosts: Vec<String>,
    /// All must be kept.
    pub rate_limits: Vec<RateLimit>,
    /// Most requests on the wire at once.
    pub concurrency: usize,
    /// Credentials that streams refer to by index, each declared once.
    pub auths: Vec<Auth>,
    /// Parents before their children, else in the file's order.
    pub streams: Vec<Stream>,
}

impl Connector {
    /// The stream of that name.
    pub fn stream(&self, name: &str) -> Option<&Stream> {
        self.streams.iter().find(|s| s.name == name)
    }
}

/// One thing a source configures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigKey {
    /// Name, as in `{{ config.name }}`.
    pub name: String,
    /// For people.
    pub description: String,
    /// Looked up as a secret, never written in a file, never printed.
    pub secret: bool,
    /// Value when the source gives none. A key without one must be given, unless optional.
    pub default: Option<String>,
    /// May be left out; is then empty.
    pub optional: bool,
}

/// How requests are authorized.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Auth {
    /// Not at all.
    None,
    /// RFC 7617. Either half may be empty.
    Basic {
        /// User id; must not contain `:`.
        username: Template,
        /// Password.
        password: Template,
    },
    /// RFC 6750, `Authorization: Bearer`.
    Bearer {
        /// The token.
        token: Template,
    },
    /// A key in a header or in the query.
    ApiKey {
        /// Where it goes.
        place: KeyPlace,
        /// The value.
        value: Template,
    },
    /// OAuth 2.0.
    OAuth(Box<OAuth>),
    /// A token that the client signs itself.
    Jwt {
        /// What it says.
        jwt: Box<Jwt>,
        /// Where it goes.
        place: TokenPlace,
    },
    /// A token that a login call of the API gives.
    Session(Box<Session>),
    /// An access token of the Google credentials at hand, for Google's own APIs.
    GoogleAccessToken {
        /// What it may be used for.
        scopes: Vec<Template>,
    },
    /// An ID token of the Google credentials at hand, for what runs on Google's cloud.
    GoogleIdToken {
        /// Whom it is for; the request's origin when not given.
        audience: Option<Template>,
    },
}

impl Auth {
    /// Every template in it.
    pub fn templates(&self) -> Vec<&Template> {
        match self {
            Self::None => Vec::new(),
            Self::Basic { username, password } => vec![username, password],
            Self::Bearer { token } => vec![token],
            Self::ApiKey { value, .. } => vec![value],
            Self::OAuth(oauth) => oauth.templates(),
            Self::Jwt { jwt, .. } => jwt.templates(),
            Self::Session(session) => session.templates(),
            Self::GoogleAccessToken { scopes } => scopes.iter().collect(),
            Self::GoogleIdToken { audience } => audience.iter().collect(),
        }
    }

    /// The config key whose secret is a refresh token, which a run may have to replace by a new one.
    pub fn refresh_key(&self) -> Option<&str> {
        match self {
            Self::OAuth(oauth) => match &oauth.grant {
                Grant::RefreshToken { token, .. } => Some(token),
                Grant::AuthorizationCode(login) => Some(&login.refresh_token),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the config key's value goes as it is to where a line break cannot be: into a header, a
    /// name or a password.
    pub fn needs_one_line(&self, key: &str) -> bool {
        let templates = match self {
            Self::Basic { username, password } => vec![username, password],
            Self::Bearer { token } => vec![token],
            Self::ApiKey { value, .. } => vec![value],
            Self::OAuth(oauth) => {
                let mut all = vec![&oauth.client_id, &oauth.client_secret];
                if let Grant::Password { username, password } = &oauth.grant {
                    all.extend([username, password]);
                }
                all
            }
            _ => Vec::new(),
        };
        templates.iter().any(|template| {
            // A filter may make one line of it.
            !template.as_str().contains('|') && template.config_keys().iter().any(|k| k == key)
        })
    }

    /// How a person logs in, where that is how one gets the refresh token.
    pub fn login(&self) -> Option<&AuthorizationCode> {
        match self {
            Self::OAuth(oauth) => match &oauth.grant {
                Grant::AuthorizationCode(login) => Some(login),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Where an API key goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyPlace {
    /// In this header.
    Header(String),
    /// In this query parameter.
    Query(String),
}

/// OAuth 2.0: a token endpoint, a client, and what it offers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OAuth {
    /// Token endpoint.
    pub token_url: Template,
    /// Client id; empty where the server wants none.
    pub client_id: Template,
    /// Client secret; empty for a public client.
    pub client_secret: Template,
    /// Asked for, space separated on the wire.
    pub scopes: Vec<Template>,
    /// How the client shows who it is.
    pub client_auth: ClientAuth,
    /// How the token request's body is written.
    pub body: TokenBody,
    /// Further parameters: `audience`, `resource`, …
    pub params: BTreeMap<String, Template>,
    /// Further headers of the token request.
    pub headers: BTreeMap<String, Template>,
    /// Lifetime to assume when the answer gives none. `None`: until refused.
    pub default_ttl: Option<Duration>,
    /// What is offered.
    pub grant: Grant,
}

impl OAuth {
    fn templates(&self) -> Vec<&Template> {
        let mut all = vec![&self.token_url, &self.client_id, &self.client_secret];
        all.extend(&self.scopes);
        all.extend(self.params.values());
        all.extend(self.headers.values());
        if let ClientAuth::PrivateKeyJwt(jwt) = &self.client_auth {
            all.extend(jwt.templates());
        }
        match &self.grant {
            Grant::ClientCredentials => {}
            Grant::Password { username, password } => all.extend([username, password]),
            Grant::RefreshToken { revocation_url, .. } => all.extend(revocation_url),
            Grant::JwtBearer(jwt) => all.extend(jwt.templates()),
            Grant::AuthorizationCode(login) => {
                all.push(&login.authorization_url);
                all.extend(login.params.values());
                all.extend(&login.revocation_url);
            }
        }
        all
    }
}

/// What is offered for a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Grant {
    /// Nothing but who the client is (RFC 6749 §4.4).
    ClientCredentials,
    /// A person's name and password (§4.3).
    Password {
        /// Name.
        username: Template,
        /// Password.
        password: Template,
    },
    /// A refresh token (§6).
    RefreshToken {
        /// The config key that says where it is.
        token: String,
        /// Where it can be revoked (RFC 7009).
        revocation_url: Option<Template>,
    },
    /// A signed statement (RFC 7523 §2.1).
    JwtBearer(Box<Jwt>),
    /// The refresh token that a person's login brought (RFC 6749 §4.1).
    AuthorizationCode(Box<AuthorizationCode>),
}

/// Where a person logs in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AuthorizationCode {
    /// The page to open.
    pub authorization_url: Template,
    /// Further parameters of it.
    pub params: BTreeMap<String, Template>,
    /// Host of the address that the browser comes back to: `127.0.0.1` or `localhost`.
    pub redirect_host: String,
    /// Its port, where the API wants a fixed one.
    pub redirect_port: Option<u16>,
    /// The config key that says where the refresh token is kept.
    pub refresh_token: String,
    /// Where it can be revoked (RFC 7009).
    pub revocation_url: Option<Template>,
}

/// How an OAuth client shows who it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// Basic, id and secret each form-urlencoded first, as RFC 6749 §2.3.1 says.
    Basic,
    /// Basic with id and secret as they are, as many servers want it.
    BasicRaw,
    /// In the body.
    Post,
    /// By a signed statement (RFC 7523 §2.2).
    PrivateKeyJwt(Box<Jwt>),
}

/// A signed statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Jwt {
    /// What it is signed with.
    pub key: Template,
    /// How.
    pub algorithm: JwtAlgorithm,
    /// `kid`.
    pub key_id: Option<Template>,
    /// `iss`.
    pub issuer: Option<Template>,
    /// `sub`.
    pub subject: Option<Template>,
    /// `aud`.
    pub audience: Option<Template>,
    /// From `iat` to `exp`.
    pub lifetime: Duration,
    /// Further claims, as a template of a JSON object.
    pub claims: Option<Template>,
}

impl Jwt {
    fn templates(&self) -> Vec<&Template> {
        let Self {
            key,
            key_id,
            issuer,
            subject,
            audience,
            claims,
            ..
        } = self;
        let optional = [key_id, issuer, subject, audience, claims];
        std::iter::once(key)
            .chain(optional.into_iter().flatten())
            .collect()
    }
}

/// A login call that gives a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Session {
    /// Where one logs in.
    pub login: LoginPlace,
    /// POST, or GET.
    pub method: Method,
    /// Headers of the login.
    pub headers: BTreeMap<String, Template>,
    /// Its body.
    pub body: Option<LoginBody>,
    /// Where the token is in the answer.
    pub token: TokenSpot,
    /// Where it goes on requests.
    pub place: TokenPlace,
    /// How long it is good. `None`: until refused.
    pub ttl: Option<Duration>,
}

/// Where one logs in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LoginPlace {
    /// Below the base URL of the streams that use the session.
    Path(Template),
    /// There.
    Url(Template),
}

/// The body of a login.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LoginBody {
    /// JSON, as a template of its text.
    Json(Template),
    /// A form.
    Form(BTreeMap<String, Template>),
}

impl Session {
    /// Every template of it that may hold a credential.
    pub fn credentials(&self) -> Vec<&Template> {
        let mut all: Vec<&Template> = self.headers.values().collect();
        match &self.body {
            Some(LoginBody::Json(text)) => all.push(text),
            Some(LoginBody::Form(fields)) => all.extend(fields.values()),
            None => {}
        }
        all
    }

    fn templates(&self) -> Vec<&Template> {
        let mut all = self.credentials();
        match &self.login {
            LoginPlace::Path(place) | LoginPlace::Url(place) => all.push(place),
        }
        all
    }
}

/// One endpoint, one table.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Name.
    pub name: String,
    /// For people; the table's description.
    pub description: String,
    /// Scheme, host and leading path.
    pub base_url: Template,
    /// The request for a page, before paging is put on it.
    pub request: RequestTemplate,
    /// Index into [`Connector::auths`].
    pub auth: usize,
    /// The stream whose records this one is read for, one partition each.
    pub parent: Option<Parent>,
    /// How pages follow each other.
    pub pagination: Pagination,
    /// JSON pointer to the array of records; empty when the body is the array.
    pub records: String,
    /// How the stream reads only what is new.
    pub incremental: Option<Incremental>,
    /// Columns that name a row.
    pub primary_key: Vec<String>,
    /// The table.
    pub table: Table,
    /// Columns that are the same for a whole partition (a parent's key), by name.
    pub add_columns: Vec<(String, Template)>,
    /// Columns, when declared; inferred otherwise.
    pub schema: Option<TableSchema>,
}

impl Stream {
    /// Whether its requests name an upper bound.
    pub fn names_until(&self) -> bool {
        let request = &self.request;
        let templates = request
            .params
            .iter()
            .chain(&request.headers)
            .map(|(_, t)| t);
        self.incremental
            .as_ref()
            .is_some_and(|i| i.until_param.is_some())
            || templates
                .chain(&request.body)
                .chain([&request.path])
                .any(|t| t.names().iter().any(|n| n == "until"))
    }
}

/// A request, to be filled in.
#[derive(Clone, Debug)]
pub struct RequestTemplate {
    /// GET or POST.
    pub method: Method,
    /// Appended to the base URL.
    pub path: Template,
    /// Query parameters in order. One that renders empty is left out.
    pub params: Vec<(String, Template)>,
    /// Headers.
    pub headers: Vec<(String, Template)>,
    /// JSON body of a POST, as a template of its text.
    pub body: Option<Template>,
    /// The POST only reads, so that it may be sent again.
    pub repeatable: bool,
    /// Statuses that mean "nothing here": the partition has no rows.
    pub ignore_status: Vec<u16>,
    /// Statuses to retry beside the usual ones.
    pub retry_status: Vec<u16>,
}

/// The stream that a stream is read for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its name.
    pub stream: String,
    /// What is taken from each of its records, by dotted name (`owner.login`); in templates
    /// `{{ parent["owner.login"] }}`. Together they are the partition's key.
    pub fields: Vec<String>,
}

/// How pages follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pagination {
    /// The transition.
    pub step: Step,
    /// Parameter that asks for a page size, and the size.
    pub size: Option<PageSize>,
    /// False, or absent, in the last page.
    pub has_more: Option<Locator>,
    /// Number of pages.
    pub total_pages: Option<Locator>,
    /// Number of records over all pages: checked against what came, and the number of pages when
    /// [`Self::total_pages`] is not given.
    pub total: Option<Locator>,
    /// The totals can be trusted and the order is stable, so pages may be asked for ahead.
    pub read_ahead: bool,
    /// Empty pages in a row that mean the end.
    pub stop_after_empty_pages: u32,
    /// A page with fewer records than the first one is the last.
    pub stop_on_short_page: bool,
    /// More pages than this is an error: the API does not come to an end.
    pub max_pages: u64,
    /// The API serves no more records than this however one pages; reaching it is an error.
    pub max_records: Option<u64>,
}

/// A page-size parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSize {
    /// Name of the query parameter; `None` when the size is only known, not asked for.
    pub param: Option<String>,
    /// Records a page.
    pub value: u64,
}

/// What leads from a page to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// One page only.
    Single,
    /// A counter in the query.
    Page {
        /// Its name.
        param: String,
        /// Number of the first page, often 0 or 1.
        first: u64,
        /// Number of the next page as the server gives it; empty or absent in the last page.
        next: Option<Locator>,
    },
    /// The number of records to skip, in the query.
    Offset {
        /// Its name.
        param: String,
    },
    /// An opaque token out of the page, into the query (or the JSON body of a POST).
    Cursor {
        /// Parameter name, or JSON pointer into the body when it starts with `/`.
        param: String,
        /// Where the token is; null, empty or absent in the last page.
        next: Locator,
    },
    /// The URL in the `Link` header (RFC 8288) with this relation.
    Link {
        /// `next`.
        rel: String,
    },
    /// A URL in the page, absolute or relative.
    NextUrl {
        /// Where it is; null, empty or absent in the last page.
        next: Locator,
    },
}

/// Where in an answer a value is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Locator {
    /// JSON pointer into the body.
    Body(String),
    /// Header.
    Header(String),
}

/// How a stream reads only what is new.
#[derive(Clone, Debug)]
pub struct Incremental {
    /// The field that says how new a record is.
    pub cursor: CursorField,
    /// Query parameter for the lower bound. The bound is also `{{ since }}` in templates.
    pub since_param: Option<String>,
    /// Query parameter for the upper bound, fixed when the run starts; `{{ until }}`.
    pub until_param: Option<String>,
    /// How the bounds are written.
    pub format: TimeFormat,
    /// How far below the saved cursor reading starts again.
    pub lookback: Duration,
    /// Lower bound of the first run; renders to a date or time, empty for none.
    pub start: Option<Template>,
    /// Longest span asked for at once; each span is a slice. Needs [`Self::until_param`].
    pub window: Option<Duration>,
    /// Records come in ascending order of the cursor, so that a part of them can be published.
    pub sorted: bool,
}

/// Whose field says how new a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CursorField {
    /// The stream's own column, or a field inside RECORDs by its dotted name
    /// (`commit.committer.date`).
    Own(String),
    /// The parent's: only children of parents changed since are read.
    Parent(String),
}

/// How a time is written in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimeFormat {
    /// `2026-01-02T03:04:05Z`.
    Rfc3339,
    /// `2026-01-02`.
    Date,
    /// Seconds since 1970.
    EpochSeconds,
    /// Milliseconds since 1970.
    EpochMillis,
    /// A strftime pattern, in UTC.
    Strftime(String),
}

/// The table of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Name.
    pub name: String,
    /// How slices are published. By default: `merge` with a primary key, else `append` when
    /// incremental, else `replace`.
    pub disposition: Disposition,
    /// How rows come into BigQuery.
    pub write_method: WriteMethod,
    /// What becomes of fields without a fitting column. By default: `discard` with a schema file, else
    /// `evolve`.
    pub contract: Option<Contract>,
    /// Time partitioning.
    pub partition: Option<Partitioning>,
    /// Columns to cluster by.
    pub cluster_by: Vec<String>,
    /// In a merged table: rows that a whole listing no longer has get a `_deleted_at`.
    pub soft_delete: bool,
    /// Rows have no `_extracted_at` and `_run_id`.
    pub bare: bool,
    /// A run that reads nothing may empty a replaced table.
    pub allow_empty_replace: bool,
    /// More rejected records than this in a run make the run end non-zero.
    pub max_rejects: u64,
}
