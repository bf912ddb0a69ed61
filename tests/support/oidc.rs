//! `oidc-provider`, a certified OAuth 2.0 and OpenID server, installed under `target/` on first use
//! and stopped when the test binary ends.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

const PACKAGE: &str = "oidc-provider@9.13.3";

/// A secret with everything that goes wrong when encodings are mixed up.
pub const SECRET: &str = "p+l%u:s/ =&?~secret";

/// Client that authenticates by `client_secret_basic`.
pub const BASIC: &str = "basic client:1";

/// Client that authenticates by `client_secret_post`.
pub const POST: &str = "post+client";

/// Client that signs who it is, `private_key_jwt`.
pub const SIGNED: &str = "signed-client";

/// Client without a secret, for which a person logs in.
pub const PUBLIC: &str = "public-client";

/// Client with a secret, for which a person logs in.
pub const CONFIDENTIAL: &str = "confidential client";

/// Stops when its standard input ends, which the system sees to when the test binary is gone.
const SCRIPT: &str = r#"
import { createPublicKey } from 'node:crypto';
import { Provider } from 'oidc-provider';
const clients = JSON.parse(process.argv[2]);
for (const client of clients) {
  if (!client.public_key) continue;
  const jwk = createPublicKey(client.public_key).export({ format: 'jwk' });
  client.jwks = { keys: [{ ...jwk, kid: 'rsa-1', use: 'sig' }] };
  delete client.public_key;
}
const provider = new Provider('http://127.0.0.1', {
  clients,
  scopes: ['openid', 'offline_access', 'read', 'write'],
  cookies: { keys: ['a key of this test'] },
  extraClientMetadata: { properties: ['public_key'] },
  rotateRefreshToken: true,
  pkce: { required: () => true },
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    devInteractions: { enabled: true },
  },
});
const server = provider.listen(0, '127.0.0.1', () => console.log(`port ${server.address().port}`));
process.stdin.on('end', () => process.exit(0)).resume();
"#;

/// A running server, one for all tests.
pub struct OidcProvider {
    base: Url,
    /// Of [`SIGNED`], PEM.
    pub private_key: String,
}

impl OidcProvider {
    /// Installs and starts it when it is not running yet.
    pub async fn get() -> &'static Self {
        static RUNNING: OnceLock<OidcProvider> = OnceLock::new();
        tokio::task::spawn_blocking(|| RUNNING.get_or_init(start))
            .await
            .unwrap()
    }

    /// The token endpoint.
    pub fn token_url(&self) -> Url {
        self.base.join("token").unwrap()
    }

    /// The page to log in at.
    pub fn authorization_url(&self) -> Url {
        self.base.join("auth").unwrap()
    }

    /// Where tokens are revoked.
    pub fn revocation_url(&self) -> Url {
        self.base.join("token/revocation").unwrap()
    }

    /// What the server itself says about a token (RFC 7662).
    pub async fn introspect(&self, token: &str) -> Value {
        let client = [("client_id", POST), ("client_secret", SECRET)];
        self.ask_about(token, &client, None).await
    }

    /// The same, asked by the client that the token was given to.
    pub async fn introspect_as(&self, client: &str, secret: Option<&str>, token: &str) -> Value {
        let encode = |text: &str| -> String { byte_serialize(text.as_bytes()).collect() };
        let basic = secret.map(|secret| {
            let pair = format!("{}:{}", encode(client), encode(secret));
            format!("Basic {}", STANDARD.encode(pair))
        });
        let id = [("client_id", client)];
        let shown = if basic.is_some() { &[][..] } else { &id[..] };
        self.ask_about(token, shown, basic).await
    }

    async fn ask_about(
        &self,
        token: &str,
        client: &[(&str, &str)],
        authorization: Option<String>,
    ) -> Value {
        let form: String = Serializer::new(String::new())
            .append_pair("token", token)
            .extend_pairs(client)
            .finish();
        let mut request = reqwest::Client::new()
            .post(self.base.join("token/introspection").unwrap())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form);
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let mut answer = request.send().await.unwrap();
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.unwrap() {
            body.extend_from_slice(&piece);
        }
        serde_json::from_slice(&body).unwrap()
    }
}

/// A person with a browser: follows redirects within the server, keeps its cookies, fills in its forms.
#[derive(Default)]
pub struct Person {
    cookies: BTreeMap<String, String>,
}

impl Person {
    /// Logs in at that page and agrees; where the browser is sent in the end, which it does not go to.
    pub async fn logs_in(mut self, start: Url) -> Url {
        let server = start.origin();
        let browser = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        let mut at = start;
        let mut form: Option<String> = None;
        for _ in 0..20 {
            if at.origin() != server {
                return at;
            }
            let request = match form.take() {
                None => browser.get(at.clone()),
                Some(form) => browser
                    .post(at.clone())
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(form),
            };
            let cookies: Vec<String> = self
                .cookies
                .iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            let mut answer = request
                .header("cookie", cookies.join("; "))
                .send()
                .await
                .unwrap();
            for line in answer.headers().get_all("set-cookie") {
                let pair = line.to_str().unwrap().split(';').next().unwrap();
                let (name, value) = pair.split_once('=').unwrap();
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
            if let Some(to) = answer.headers().get("location") {
                at = at.join(to.to_str().unwrap()).unwrap();
                continue;
            }
            let mut page = Vec::new();
            while let Some(piece) = answer.chunk().await.unwrap() {
                page.extend_from_slice(&piece);
            }
            let page = String::from_utf8(page).unwrap();
            let action = page
                .split("action=\"")
                .nth(1)
                .unwrap_or_else(|| panic!("no form at {at}: {page}"));
            at = at.join(action.split('"').next().unwrap()).unwrap();
            let fields: &[(&str, &str)] = match page.contains("name=\"login\"") {
                true => &[
                    ("prompt", "login"),
                    ("login", "ann"),
                    ("password", "anything"),
                ],
                false => &[("prompt", "consent")],
            };
            form = Some(Serializer::new(String::new()).extend_pairs(fields).finish());
        }
        panic!("the server never came to an end");
    }
}

fn start() -> OidcProvider {
    let home = install();
    let client = |id: &str, method: &str| {
        json!({
            "client_id": id,
            "client_secret": SECRET,
            "token_endpoint_auth_method": method,
            "grant_types": ["client_credentials"],
            "redirect_uris": [],
            "response_types": [],
        })
    };
    let person = |id: &str, method: &str, secret: Option<&str>| {
        json!({
            "client_id": id,
            "client_secret": secret,
            "token_endpoint_auth_method": method,
            "grant_types": ["authorization_code", "refresh_token"],
            "application_type": "native",
            // Any port, as RFC 8252 has it.
            "redirect_uris": ["http://127.0.0.1/callback"],
            "response_types": ["code"],
        })
    };
    let key = rsa();
    let mut signed = client(SIGNED, "private_key_jwt");
    signed["public_key"] = json!(key.public_key_pem());
    let mut clients = json!([
        client(BASIC, "client_secret_basic"),
        client(POST, "client_secret_post"),
        signed,
        person(PUBLIC, "none", None),
        person(CONFIDENTIAL, "client_secret_basic", Some(SECRET)),
    ]);
    for client in clients.as_array_mut().unwrap() {
        client.as_object_mut().unwrap().retain(|_, v| !v.is_null());
    }
    let mut server = Command::new("node")
        .args([home.join("server.mjs").as_os_str(), clients.to_string().as_ref()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("could not start `node`: install Node.js 20 or newer, which the tests need for oidc-provider");
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let port = lines
        .by_ref()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("port ").map(str::to_owned))
        .expect("oidc-provider ended before it listened: run `node server.mjs '[]'` in target/tmp/oidc-provider@9.13.3 to see why");
    // Read on, so that it can go on talking.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    // Its standard input stays open as long as this process lives.
    std::mem::forget(server);
    OidcProvider {
        base: Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap(),
        private_key: key.serialize_pem(),
    }
}

/// A new RSA key.
pub fn rsa() -> rcgen::KeyPair {
    rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap()
}

/// Complete, or not there at all: built beside its place and moved into it.
fn install() -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let home = tmp.join(PACKAGE);
    if !home.join("node_modules").exists() {
        let building = tmp.join(format!("{PACKAGE}.{}", std::process::id()));
        fs::create_dir_all(&building).unwrap();
        let output = Command::new("npm")
            .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"])
            .args([building.as_os_str(), PACKAGE.as_ref()])
            .output()
            .expect("could not start `npm`: install Node.js 20 or newer with npm, which the tests need for oidc-provider");
        assert!(
            output.status.success(),
            "`npm install {PACKAGE}` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        // Another run may have been faster; its result is as good.
        if fs::rename(&building, &home).is_err() {
            fs::remove_dir_all(&building).unwrap();
        }
    }
    fs::write(home.join("server.mjs"), SCRIPT).unwrap();
    home
}
