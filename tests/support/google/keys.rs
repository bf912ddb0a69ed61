//! RSA keys that sign tokens.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use rcgen::{KeyPair, PKCS_RSA_SHA256, SigningKey as _};
use serde_json::{Value, json};

/// A key with its name.
#[derive(Clone)]
pub struct SigningKey {
    pub id: String,
    pair: Arc<KeyPair>,
}

impl SigningKey {
    /// The `number`-th key of this process, under a new name. Making one takes a while, so that all
    /// stand-ins have the same ones.
    pub fn new(number: usize) -> Self {
        static MADE: Mutex<Vec<Arc<KeyPair>>> = Mutex::new(Vec::new());
        let mut made = MADE.lock().unwrap();
        while made.len() <= number {
            made.push(Arc::new(KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap()));
        }
        Self {
            id: format!("{:040x}", rand::random::<u128>()),
            pair: made[number].clone(),
        }
    }

    /// The private half, as a key file holds it.
    pub fn pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "RS256", "kid": self.id, "typ": "JWT"});
        let encoded = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encoded(&header), encoded(claims));
        let signature = self.pair.sign(message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// The claims of a token that this key has signed. What they say is for the caller to judge.
    pub fn verified(&self, token: &str) -> Option<Value> {
        let mut validation = Validation::new(Algorithm::RS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_required_spec_claims::<&str>(&[]);
        jsonwebtoken::decode::<Value>(token, &self.public(), &validation)
            .ok()
            .map(|token| token.claims)
    }

    /// The public half, as Google publishes it.
    pub fn jwk(&self) -> Value {
        let jwk = Jwk::from_decoding_key(&self.public(), Some(Algorithm::RS256)).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    fn public(&self) -> DecodingKey {
        DecodingKey::from_rsa_der(self.pair.public_key_raw())
    }
}
