//! Signed statements (JWT, RFC 7519) in which a client says who it is: as the assertion of a grant or
//! of a client (RFC 7523), or as the API's bearer token itself.

use std::time::Duration;

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Map, Value, json};

use super::keeper::{Granted, Issue};
use super::place::TokenPlace;
use super::{Credential, check_characters};
use crate::clock::SharedClock;
use crate::error::{Error, Result};
use crate::http::CallContext;
use crate::telemetry::redact;

/// What is said, and what it is signed with.
#[derive(Clone, Debug)]
pub struct JwtConfig {
    /// A private key as PEM (PKCS #8, or PKCS #1 for RSA); for HS256 the shared secret.
    pub key: Credential,
    /// How it is signed.
    pub algorithm: JwtAlgorithm,
    /// Which of its keys the server is to try (`kid` in the header).
    pub key_id: Option<String>,
    /// `iss`.
    pub issuer: Option<String>,
    /// `sub`.
    pub subject: Option<String>,
    /// `aud`.
    pub audience: Option<String>,
    /// From `iat` to `exp`.
    pub lifetime: Duration,
    /// Further claims; they stand in for standard ones of the same name.
    pub claims: Map<String, Value>,
}

/// How a statement is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JwtAlgorithm {
    /// RSA with SHA-256.
    Rs256,
    /// RSA with SHA-384.
    Rs384,
    /// RSA with SHA-512.
    Rs512,
    /// ECDSA on P-256.
    Es256,
    /// HMAC with SHA-256.
    Hs256,
}

/// Makes statements.
pub(super) struct Signer {
    config: JwtConfig,
    header: Header,
    key: EncodingKey,
    clock: SharedClock,
}

impl Signer {
    /// # Errors
    /// [`crate::error::ErrorKind::Config`]: a key that does not fit the algorithm.
    pub fn new(config: JwtConfig, clock: SharedClock) -> Result<Self> {
        let from = &config.key.from;
        let mut header = Header::new(match config.algorithm {
            JwtAlgorithm::Rs256 => Algorithm::RS256,
            JwtAlgorithm::Rs384 => Algorithm::RS384,
            JwtAlgorithm::Rs512 => Algorithm::RS512,
            JwtAlgorithm::Es256 => Algorithm::ES256,
            JwtAlgorithm::Hs256 => Algorithm::HS256,
        });
        header.kid.clone_from(&config.key_id);
        let key = match config.algorithm {
            JwtAlgorithm::Hs256 => {
                check_characters(&config.key)?;
                redact::register(config.key.expose());
                EncodingKey::from_secret(config.key.expose().as_bytes())
            }
            algorithm => {
                let pem = pem(config.key.expose());
                let (key, name, convert) = match algorithm {
                    JwtAlgorithm::Es256 => (
                        EncodingKey::from_ec_pem(pem.as_bytes()),
                        "an EC private key (P-256) in PKCS #8",
                        "; `openssl pkcs8 -topk8 -nocrypt` makes it of `BEGIN EC PRIVATE KEY`",
                    ),
                    _ => (
                        EncodingKey::from_rsa_pem(pem.as_bytes()),
                        "an RSA private key",
                        "",
                    ),
                };
                // The library's error could quote what it read.
                key.map_err(|_| {
                    Error::config(format!("the {from} is not {name} as PEM")).hint(format!(
                        "store the whole file, from `-----BEGIN` to `END …-----`, its line breaks as they are or as `\\n`{convert}"
                    ))
                })?
            }
        };
        let signer = Self {
            config,
            header,
            key,
            clock,
        };
        // A key that cannot sign should say so before anything is sent.
        signer.sign("")?;
        Ok(signer)
    }

    /// A statement as of now, for `audience` unless the configuration names another.
    ///
    /// # Errors
    /// [`crate::error::ErrorKind::Config`]: the key cannot sign.
    pub fn sign(&self, audience: &str) -> Result<String> {
        let config = &self.config;
        let now = self.clock.now().as_second();
        let lifetime = i64::try_from(config.lifetime.as_secs()).unwrap_or(i64::MAX);
        let mut claims = Map::from_iter([
            ("iat".to_owned(), json!(now)),
            ("exp".to_owned(), json!(now.saturating_add(lifetime))),
            // Servers that take each statement once tell them apart by this.
            (
                "jti".to_owned(),
                json!(format!("{:032x}", rand::random::<u128>())),
            ),
        ]);
        let audience = config.audience.as_deref().unwrap_or(audience);
        for (name, value) in [
            ("iss", config.issuer.as_deref()),
            ("sub", config.subject.as_deref()),
            ("aud", Some(audience)),
        ] {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                claims.insert(name.to_owned(), json!(value));
            }
        }
        claims.extend(config.claims.clone());
        let token = encode(&self.header, &claims, &self.key).map_err(|_| {
            Error::config(format!(
                "the {} cannot sign with {:?}",
                config.key.from, self.header.alg
            ))
            .hint("check `alg`, and that the key is one for it; RSA keys need 2048 bits or more")
        })?;
        redact::register(&token);
        Ok(token)
    }

    /// Which key it signs with.
    pub fn describe(&self) -> String {
        self.config.key.from.clone()
    }
}

/// The PEM with its line breaks, each line of it known to redaction.
fn pem(text: &str) -> String {
    let text = match text.contains('\n') {
        true => text.to_owned(),
        false => text.replace("\\n", "\n"),
    };
    for line in text.lines().filter(|line| !line.starts_with("-----")) {
        redact::register(line.trim());
    }
    text
}

/// Issues bearer tokens that the client signs itself.
pub(super) struct SelfSigned {
    signer: Signer,
    place: TokenPlace,
}

impl SelfSigned {
    /// # Errors
    /// As [`Signer::new`].
    pub fn new(config: JwtConfig, place: TokenPlace, clock: SharedClock) -> Result<Self> {
        Ok(Self {
            signer: Signer::new(config, clock)?,
            place,
        })
    }
}

#[async_trait]
impl Issue for SelfSigned {
    async fn issue(&self, _: &CallContext) -> Result<Granted> {
        let asked_at = self.signer.clock.instant();
        let token = self.signer.sign("")?;
        Ok(Granted {
            placed: self
                .place
                .hold(Credential::new(token, "signed token"))
                .map_err(|e| e.context("could not put a signed token on requests"))?,
            asked_at,
            lifetime: Some(self.signer.config.lifetime),
        })
    }

    fn describe(&self) -> String {
        self.signer.describe()
    }
}
