//! `auth: {oauth2: …}` and `auth: {jwt: …}`: token endpoints, what they are offered, and signed
//! statements.

use super::Lower;
use super::auth::example_url;
use super::place::May;
use crate::connector::model::{
    Auth, AuthorizationCode, ClientAuth, Grant, Jwt, JwtAlgorithm, OAuth, TokenBody,
};
use crate::connector::template::Template;
use crate::yaml::{Fields, Node, Position, Value};

const GRANTS: [&str; 5] = [
    "client_credentials",
    "refresh_token",
    "password",
    "jwt_bearer",
    "authorization_code",
];

/// Keys of every grant.
const CLIENT: [&str; 9] = [
    "token_url",
    "client_id",
    "client_secret",
    "scopes",
    "client_auth",
    "body",
    "params",
    "headers",
    "default_ttl",
];

/// Keys of a signed statement.
const JWT: [&str; 9] = [
    "private_key",
    "secret",
    "alg",
    "kid",
    "issuer",
    "subject",
    "audience",
    "lifetime",
    "claims",
];

/// What the program itself says to the page where a person logs in, and where else it is to be said. A
/// second one would undo what protects the login, or the server would take either.
const LOGIN: [(&str, &str); 7] = [
    ("response_type", "leave it out"),
    ("state", "leave it out"),
    ("code_challenge", "leave it out"),
    ("code_challenge_method", "leave it out"),
    ("redirect_uri", "say `redirect_host` and `redirect_port`"),
    ("client_id", "say it as `client_id`"),
    ("scope", "say it as `scopes`"),
];

/// Lifetime of a statement when nobody says otherwise: long enough for clocks that differ.
const LIFETIME: std::time::Duration = std::time::Duration::from_secs(300);

impl Lower<'_> {
    pub(super) fn oauth2(&mut self, node: &Node) -> Option<Auth> {
        let (kind, inner) = self.reader.tagged(node, "`auth.oauth2`", &GRANTS)?;
        if inner.is_none() {
            let lacks = match kind {
                "client_credentials" => "`token_url`, `client_id` and `client_secret`",
                "refresh_token" => "`token_url`, `client_id` and `refresh_token`",
                "password" => "`token_url`, `username` and `password`",
                "jwt_bearer" => "`token_url` and `private_key`",
                _ => "`authorization_url`, `token_url`, `client_id` and `refresh_token`",
            };
            self.reader
                .findings
                .error(node.at, format!("`{kind}` lacks {lacks}"), None);
        }
        self.grant(kind, inner?)
    }

    /// A grant with its keys.
    pub(super) fn grant(&mut self, kind: &str, node: &Node) -> Option<Auth> {
        let what = format!("`{kind}`");
        let what = what.as_str();
        let own: &[&str] = match kind {
            "refresh_token" => &["refresh_token", "revocation_url"],
            "password" => &["username", "password"],
            "jwt_bearer" => &JWT,
            "authorization_code" => &[
                "authorization_url",
                "authorization_params",
                "redirect_host",
                "redirect_port",
                "refresh_token",
                "revocation_url",
            ],
            _ => &[],
        };
        let known: Vec<&str> = CLIENT.iter().chain(own).copied().collect();
        let fields = self.reader.fields(node, what, &known)?;
        let grant = match kind {
            "refresh_token" => self.refresh_token(&fields, what).map(|token| {
                let revocation_url = self.optional_url(&fields, "revocation_url");
                Grant::RefreshToken {
                    token,
                    revocation_url,
                }
            }),
            "password" => self.password(&fields, what),
            "jwt_bearer" => self
                .jwt(&fields, what)
                .map(|jwt| Grant::JwtBearer(Box::new(jwt))),
            "authorization_code" => self
                .authorization_code(&fields, what)
                .map(|login| Grant::AuthorizationCode(Box::new(login))),
            _ => Some(Grant::ClientCredentials),
        };
        let client = self.client(kind, &fields, what);
        Some(Auth::OAuth(Box::new(OAuth {
            grant: grant?,
            ..client?
        })))
    }

    /// What all grants have in common.
    fn client(&mut self, kind: &str, fields: &Fields<'_>, what: &str) -> Option<OAuth> {
        let token_url = self
            .reader
            .required(fields, "token_url", what)
            .and_then(|node| self.url(node, "`token_url`", true));
        let client_auth = match fields.get("client_auth") {
            Some(node) => self.client_auth(node),
            None => Some(ClientAuth::Basic),
        };
        let signs = matches!(client_auth, Some(ClientAuth::PrivateKeyJwt(_)));
        let nameless = matches!(kind, "password" | "jwt_bearer") && !signs;
        let client_id = match (fields.get("client_id"), nameless) {
            (None, true) => Template::parse("").ok(),
            (None, false) => {
                self.reader.required(fields, "client_id", what);
                None
            }
            (Some(node), _) => self.template(node, "`client_id`", May::CONFIG, &mut Vec::new()),
        };
        let client_secret = match fields.get("client_secret") {
            Some(node) if signs => {
                self.reader.findings.error(
                    node.at,
                    "`client_secret` stands beside `private_key_jwt`, which takes its place",
                    "keep the one or the other".to_owned(),
                );
                None
            }
            Some(node) => self.credential(node, "`client_secret`"),
            // Without one it is a public client; one that asks for itself has to prove who it is.
            None if kind == "client_credentials" && !signs => {
                self.reader.required(fields, "client_secret", what);
                None
            }
            None => Template::parse("").ok(),
        };
        let scopes = fields.get("scopes").map(|node| self.scopes(node));
        let scopes = scopes.unwrap_or_default();
        let body = fields.get("body").and_then(|node| {
            self.reader.choice(
                node,
                "`body`",
                &[("form", TokenBody::Form), ("json", TokenBody::Json)],
            )
        });
        let params = self.plain_map(fields.get("params"), "`params`", false);
        let headers = self.plain_map(fields.get("headers"), "`headers`", true);
        let default_ttl = fields
            .get("default_ttl")
            .and_then(|node| self.reader.duration_above_zero(node, "`default_ttl`"));
        Some(OAuth {
            token_url: token_url?,
            client_id: client_id?,
            client_secret: client_secret?,
            scopes,
            client_auth: client_auth?,
            body: body.unwrap_or(TokenBody::Form),
            params,
            headers,
            default_ttl,
            grant: Grant::ClientCredentials,
        })
    }

    /// Scopes: at least one, and none empty.
    pub(super) fn scopes(&mut self, node: &Node) -> Vec<Template> {
        let texts = self.reader.texts(node, "`scopes`");
        if let Value::List(items) = &node.value
            && items.is_empty()
        {
            self.reader.findings.error(
                node.at,
                "`scopes` is empty",
                "name what the token is for, or leave it out".to_owned(),
            );
        }
        let mut scopes = Vec::new();
        for (at, text) in texts {
            if text.trim().is_empty() {
                self.reader.findings.error(
                    at,
                    "`scopes` holds an empty one",
                    "name what the token is for, or leave it out".to_owned(),
                );
                continue;
            }
            scopes.extend(self.template_text(at, text, "`scopes`", May::CONFIG, &mut Vec::new()));
        }
        scopes
    }

    /// `basic`, `basic_raw`, `post`, or `{private_key_jwt: {…}}`.
    fn client_auth(&mut self, node: &Node) -> Option<ClientAuth> {
        let kinds = ["basic", "basic_raw", "post", "private_key_jwt"];
        let (kind, inner) = self.reader.tagged(node, "`client_auth`", &kinds)?;
        match (kind, inner) {
            ("private_key_jwt", Some(inner)) => {
                let what = "`private_key_jwt`";
                let fields = self.reader.fields(inner, what, &JWT)?;
                let jwt = self.jwt(&fields, what)?;
                Some(ClientAuth::PrivateKeyJwt(Box::new(jwt)))
            }
            ("private_key_jwt", None) => {
                self.reader.findings.error(
                    node.at,
                    "`private_key_jwt` lacks `private_key`",
                    "write `client_auth: {private_key_jwt: {private_key: …, alg: RS256}}`"
                        .to_owned(),
                );
                None
            }
            (kind, Some(inner)) => {
                self.reader
                    .findings
                    .error(inner.at, format!("`{kind}` takes nothing more"), None);
                None
            }
            ("basic_raw", None) => Some(ClientAuth::BasicRaw),
            ("post", None) => Some(ClientAuth::Post),
            (_, None) => Some(ClientAuth::Basic),
        }
    }

    fn password(&mut self, fields: &Fields<'_>, what: &str) -> Option<Grant> {
        let username = self
            .reader
            .required(fields, "username", what)
            .and_then(|n| self.template(n, "`username`", May::CONFIG, &mut Vec::new()));
        let password = self
            .reader
            .required(fields, "password", what)
            .and_then(|node| self.credential(node, "`password`"));
        Some(Grant::Password {
            username: username?,
            password: password?,
        })
    }

    /// The config key of a refresh token. It is named alone: the program has to store a new token
    /// where it read the old one, and must know where that is.
    fn refresh_token(&mut self, fields: &Fields<'_>, what: &str) -> Option<String> {
        let node = self.reader.required(fields, "refresh_token", what)?;
        let token = self.credential(node, "`refresh_token`")?;
        let key = token
            .as_str()
            .trim()
            .strip_prefix("{{")
            .and_then(|text| text.strip_suffix("}}"))
            .and_then(|text| text.trim().strip_prefix("config."))
            .filter(|key| super::is_identifier(key));
        if key.is_none() && !token.config_keys().is_empty() {
            self.reader.findings.error(
                node.at,
                "`refresh_token` must be one config key and nothing else: a new token is stored in its place",
                "write `refresh_token: \"{{ config.refresh_token }}\"`".to_owned(),
            );
        }
        key.map(str::to_owned)
    }

    fn authorization_code(&mut self, fields: &Fields<'_>, what: &str) -> Option<AuthorizationCode> {
        let authorization_url = self
            .reader
            .required(fields, "authorization_url", what)
            .and_then(|node| {
                let url = self.url(node, "`authorization_url`", true)?;
                if let Some(Ok(example)) = example_url(url.as_str()) {
                    for (name, _) in example.query_pairs() {
                        self.not_of_login(node.at, &name, "`authorization_url`");
                    }
                }
                Some(url)
            });
        if let Some(node) = fields.get("authorization_params")
            && let Value::Map(entries) = &node.value
        {
            for entry in entries {
                self.not_of_login(entry.at, &entry.key, "`authorization_params`");
            }
        }
        let params = self.plain_map(
            fields.get("authorization_params"),
            "`authorization_params`",
            false,
        );
        for template in params.values() {
            if self.uses_secret(template) {
                self.reader.findings.error(
                    fields.at,
                    "`authorization_params` would show a secret in the browser's address",
                    "what the token endpoint is to get goes into `params`".to_owned(),
                );
            }
        }
        let host = fields.get("redirect_host").and_then(|node| {
            let hosts = [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost")];
            self.reader.choice(node, "`redirect_host`", &hosts)
        });
        let redirect_port = fields.get("redirect_port").and_then(|node| {
            let port = self.reader.number(node, "`redirect_port`", 1, 65_535)?;
            u16::try_from(port).ok()
        });
        let refresh_token = self.refresh_token(fields, what);
        let revocation_url = self.optional_url(fields, "revocation_url");
        Some(AuthorizationCode {
            authorization_url: authorization_url?,
            params,
            redirect_host: host.unwrap_or("127.0.0.1").to_owned(),
            redirect_port,
            refresh_token: refresh_token?,
            revocation_url,
        })
    }

    /// A parameter that the connector gives the login's page is none that the program gives it.
    fn not_of_login(&mut self, at: Position, name: &str, what: &str) {
        if let Some((_, hint)) = LOGIN.iter().find(|(own, _)| *own == name) {
            self.reader.findings.error(
                at,
                format!("{what} holds `{name}`, which drawoff gives the page itself"),
                (*hint).to_owned(),
            );
        }
    }

    fn optional_url(&mut self, fields: &Fields<'_>, key: &str) -> Option<Template> {
        let node = fields.get(key)?;
        self.url(node, &format!("`{key}`"), true)
    }

    /// `auth: {jwt: …}`.
    pub(super) fn self_signed(&mut self, node: &Node) -> Option<Auth> {
        let what = "`auth.jwt`";
        let known: Vec<&str> = JWT.iter().copied().chain(["send"]).collect();
        let fields = self.reader.fields(node, what, &known)?;
        let place = self.send(fields.get("send"));
        let jwt = self.jwt(&fields, what)?;
        Some(Auth::Jwt {
            jwt: Box::new(jwt),
            place: place?,
        })
    }

    /// A statement's keys.
    fn jwt(&mut self, fields: &Fields<'_>, what: &str) -> Option<Jwt> {
        let algorithm = match fields.get("alg") {
            None => Some(JwtAlgorithm::Rs256),
            Some(node) => self.reader.choice(
                node,
                "`alg`",
                &[
                    ("RS256", JwtAlgorithm::Rs256),
                    ("RS384", JwtAlgorithm::Rs384),
                    ("RS512", JwtAlgorithm::Rs512),
                    ("ES256", JwtAlgorithm::Es256),
                    ("HS256", JwtAlgorithm::Hs256),
                ],
            ),
        };
        let shared = algorithm == Some(JwtAlgorithm::Hs256);
        let (wanted, other) = match shared {
            true => ("secret", "private_key"),
            false => ("private_key", "secret"),
        };
        if let Some(entry) = fields.entry(other) {
            self.reader.findings.error(
                entry.at,
                format!("`{other}` does not go with `alg` of {what}"),
                format!("this `alg` signs with `{wanted}`"),
            );
        }
        let key = match fields.get(other) {
            Some(_) => None,
            None => self
                .reader
                .required(fields, wanted, what)
                .and_then(|node| self.credential(node, &format!("`{wanted}`"))),
        };
        let mut text = |key: &str| {
            let node = fields.get(key)?;
            self.template(node, &format!("`{key}`"), May::CONFIG, &mut Vec::new())
        };
        let (key_id, issuer) = (text("kid"), text("issuer"));
        let (subject, audience) = (text("subject"), text("audience"));
        let lifetime = fields
            .get("lifetime")
            .and_then(|node| self.reader.duration_above_zero(node, "`lifetime`"));
        let claims = fields.get("claims").and_then(|node| {
            self.reader.entries(node, "`claims`")?;
            self.body(node, May::CONFIG, &mut Vec::new())
        });
        Some(Jwt {
            key: key?,
            algorithm: algorithm?,
            key_id,
            issuer,
            subject,
            audience,
            lifetime: lifetime.unwrap_or(LIFETIME),
            claims,
        })
    }
}
