//! `oidc-provider`, a certified OAuth 2.0 and OpenID server, installed under `target/` on first use
//! and stopped when the test binary ends.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};
use url::Url;

const PACKAGE: &str = "oidc-provider@9.13.3";

/// A secret with everything that goes wrong when encodings are mixed up.
pub const SECRET: &str = "p+l%u:s/ =&?~secret";

/// Client that authenticates by `client_secret_basic`.
pub const BASIC: &str = "basic client:1";

/// Client that authenticates by `client_secret_post`.
pub const POST: &str = "post+client";

/// Stops when its standard input ends, which the system sees to when the test binary is gone.
const SCRIPT: &str = r#"
import { Provider } from 'oidc-provider';
const provider = new Provider('http://127.0.0.1', {
  clients: JSON.parse(process.argv[2]),
  scopes: ['read', 'write'],
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    devInteractions: { enabled: false },
  },
});
const server = provider.listen(0, '127.0.0.1', () => console.log(`port ${server.address().port}`));
process.stdin.on('end', () => process.exit(0)).resume();
"#;

/// A running server, one for all tests.
pub struct OidcProvider {
    base: Url,
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

    /// What the server itself says about a token (RFC 7662).
    pub async fn introspect(&self, token: &str) -> Value {
        let form: String = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs([
                ("token", token),
                ("client_id", POST),
                ("client_secret", SECRET),
            ])
            .finish();
        let mut answer = reqwest::Client::new()
            .post(self.base.join("token/introspection").unwrap())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
            .send()
            .await
            .unwrap();
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.unwrap() {
            body.extend_from_slice(&piece);
        }
        serde_json::from_slice(&body).unwrap()
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
    let clients = json!([
        client(BASIC, "client_secret_basic"),
        client(POST, "client_secret_post"),
    ]);
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
    }
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
