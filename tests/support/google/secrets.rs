//! Secret Manager: `secretmanager.googleapis.com`, and a host for each location's own secrets.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Google;
use super::answer::{Answer, Outcome};
use super::calls::Call;
use super::identities::Role;
use super::tokens::CLOUD_PLATFORM;
use super::world::State;

pub const HOST: &str = "secretmanager.googleapis.com";

/// Largest payload: 64 KiB.
const LARGEST: usize = 64 << 10;

/// Answers name the project by its number, whatever it was asked by.
const NUMBER: &str = "123456789012";

/// A secret.
#[derive(Default)]
pub struct Secret {
    /// Versions from 1 on.
    pub versions: Vec<Version>,
    pub aliases: BTreeMap<String, usize>,
}

/// One value of a secret.
pub struct Version {
    pub data: Vec<u8>,
    pub state: VersionState,
    /// What is said of the payload in place of the truth.
    pub checksum: Checksum,
    created: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    Enabled,
    Disabled,
    Destroyed,
}

/// The checksum that goes with a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Right,
    /// Another payload's.
    Wrong,
    Absent,
}

impl Version {
    pub fn new(data: impl Into<Vec<u8>>) -> Self {
        Self {
            data: data.into(),
            state: VersionState::Enabled,
            checksum: Checksum::Right,
            created: Timestamp::now(),
        }
    }
}

impl Google {
    /// Adds a version to a global secret, which is made where it is missing; its number.
    pub fn put_secret(&self, project: &str, secret: &str, value: impl Into<Vec<u8>>) -> usize {
        self.put(format!("projects/{project}/secrets/{secret}"), value)
    }

    /// The same for a secret of a location.
    pub fn put_regional_secret(
        &self,
        project: &str,
        location: &str,
        secret: &str,
        value: impl Into<Vec<u8>>,
    ) -> usize {
        self.put(
            format!("projects/{project}/locations/{location}/secrets/{secret}"),
            value,
        )
    }

    /// Makes a global secret without versions.
    pub fn make_secret(&self, project: &str, secret: &str) {
        let name = format!("projects/{project}/secrets/{secret}");
        self.world.state().secrets.entry(name).or_default();
    }

    fn put(&self, name: String, value: impl Into<Vec<u8>>) -> usize {
        let mut state = self.world.state();
        let secret: &mut Secret = state.secrets.entry(name).or_default();
        secret.versions.push(Version::new(value));
        secret.versions.len()
    }

    /// Lets an alias of a global secret mean a version.
    pub fn set_alias(&self, project: &str, secret: &str, alias: &str, version: usize) {
        let mut state = self.world.state();
        let secret = state
            .secrets
            .get_mut(&format!("projects/{project}/secrets/{secret}"))
            .unwrap();
        secret.aliases.insert(alias.to_owned(), version);
    }

    /// Sets the state of a version of a global secret.
    pub fn set_version(&self, project: &str, secret: &str, version: usize, to: VersionState) {
        self.edit_version(project, secret, version, |v| v.state = to);
    }

    /// What checksum goes with a version of a global secret.
    pub fn set_checksum(&self, project: &str, secret: &str, version: usize, to: Checksum) {
        self.edit_version(project, secret, version, |v| v.checksum = to);
    }

    fn edit_version(
        &self,
        project: &str,
        secret: &str,
        version: usize,
        edit: impl FnOnce(&mut Version),
    ) {
        let mut state = self.world.state();
        let secret = state
            .secrets
            .get_mut(&format!("projects/{project}/secrets/{secret}"))
            .unwrap();
        edit(&mut secret.versions[version - 1]);
    }

    /// Every version of a global secret: its value, and its state.
    pub fn versions(&self, project: &str, secret: &str) -> Vec<(Vec<u8>, VersionState)> {
        let state = self.world.state();
        let secret = state
            .secrets
            .get(&format!("projects/{project}/secrets/{secret}"));
        secret
            .into_iter()
            .flat_map(|s| &s.versions)
            .map(|v| (v.data.clone(), v.state))
            .collect()
    }
}

/// The location that a host serves: empty for the global one.
pub fn location(host: &str) -> Option<&str> {
    if host == HOST {
        return Some("");
    }
    host.strip_prefix("secretmanager.")?
        .strip_suffix(".rep.googleapis.com")
}

/// What a path names.
struct Named {
    /// `projects/P[/locations/L]`.
    parent: String,
    location: String,
    secret: Option<String>,
    version: Option<String>,
    /// Whether it ends in `versions`, a collection.
    versions: bool,
    method: String,
}

impl Named {
    fn read(path: &str) -> Option<Self> {
        let path = path.strip_prefix("/v1/")?;
        let (path, method) = match path.rsplit_once(':') {
            Some((path, method)) if !method.contains('/') => (path, method),
            _ => (path, ""),
        };
        let mut parts = path.split('/');
        let mut named = Self {
            parent: String::new(),
            location: String::new(),
            secret: None,
            version: None,
            versions: false,
            method: method.to_owned(),
        };
        if parts.next() != Some("projects") {
            return None;
        }
        named.parent = format!("projects/{}", parts.next()?);
        let mut next = parts.next()?;
        if next == "locations" {
            named.location = parts.next()?.to_owned();
            named
                .parent
                .push_str(&format!("/locations/{}", named.location));
            next = parts.next()?;
        }
        if next != "secrets" {
            return None;
        }
        named.secret = parts.next().map(str::to_owned);
        named.versions = match parts.next() {
            Some("versions") => true,
            Some(_) => return None,
            None => false,
        };
        named.version = parts.next().map(str::to_owned);
        parts.next().is_none().then_some(named)
    }

    fn secret_name(&self) -> String {
        format!(
            "{}/secrets/{}",
            self.parent,
            self.secret.as_deref().unwrap_or_default()
        )
    }

    fn name(&self) -> String {
        match &self.version {
            Some(version) => format!("{}/versions/{version}", self.secret_name()),
            None if self.secret.is_some() => self.secret_name(),
            None => self.parent.clone(),
        }
    }

    /// The secret's name, as answers have it.
    fn answered(&self) -> String {
        answered(&self.secret_name())
    }
}

fn answered(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts[1] = NUMBER;
    parts.join("/")
}

pub fn answer(state: &mut State, call: &mut Call) -> Outcome {
    let who = match call.secure {
        true => Some(state.authenticate(call, &[CLOUD_PLATFORM])?.name),
        false => None,
    };
    let named = Named::read(&call.path).ok_or_else(|| Answer::page(404, "Not Found").wrong())?;
    if call.secure && location(&call.host) != Some(named.location.as_str()) {
        let text = match named.location.as_str() {
            "" => "This endpoint serves regional secrets only.",
            _ => "Location is not served by this endpoint: use that of the secret's location.",
        };
        return Err(Answer::api(400, text).wrong());
    }
    let method = named.method.as_str();
    let here = (
        call.method.as_str(),
        named.secret.is_some(),
        named.versions,
        named.version.is_some(),
    );
    use Role::{
        SecretAccessor, SecretAdmin, SecretVersionAdder, SecretVersionManager, SecretViewer,
    };
    let (permission, roles): (&str, &[Role]) = match (here, method) {
        (("GET", true, true, true), "access") => ("versions.access", &[SecretAccessor]),
        (("POST", true, false, false), "addVersion") => {
            ("versions.add", &[SecretVersionAdder, SecretVersionManager])
        }
        (("GET", true, true, true), "") => ("versions.get", &[SecretViewer, SecretVersionManager]),
        (("GET", true, true, false), "") => {
            ("versions.list", &[SecretViewer, SecretVersionManager])
        }
        (("POST", true, true, true), "enable") => ("versions.enable", &[SecretVersionManager]),
        (("POST", true, true, true), "disable") => ("versions.disable", &[SecretVersionManager]),
        (("POST", true, true, true), "destroy") => ("versions.destroy", &[SecretVersionManager]),
        (("GET", true, false, false), "") => ("secrets.get", &[SecretViewer]),
        (("GET", false, false, false), "") => ("secrets.list", &[SecretViewer]),
        (("POST", false, false, false), "") => ("secrets.create", &[]),
        _ => return Err(Answer::page(404, "Not Found").wrong()),
    };
    let permission = format!("secretmanager.{permission}");
    let may = |name: &String| {
        roles
            .iter()
            .chain([&SecretAdmin])
            .any(|role| state.holds(name, role))
    };
    if !who.as_ref().is_none_or(may) {
        let resource = named.name();
        return Err(Answer::api(
            403,
            &format!(
                "Permission '{permission}' denied for resource '{resource}' (or it may not exist)."
            ),
        )
        .because(
            "IAM_PERMISSION_DENIED",
            "iam.googleapis.com",
            json!({"permission": permission, "resource": resource}),
        )
        .wrong());
    }
    if call.method == "POST" && call.media() != "application/json" {
        return Err(Answer::api(400, "The body is not said to be JSON.").wrong());
    }
    match permission.trim_start_matches("secretmanager.") {
        "secrets.create" => return create(state, &named, call),
        "secrets.list" => {
            let start = format!("{}/secrets/", named.parent);
            let names = state.secrets.keys().filter(|name| name.starts_with(&start));
            let secrets: Vec<Value> = names.map(|name| json!({"name": answered(name)})).collect();
            return Ok(Answer::json(
                &json!({"secrets": secrets, "totalSize": secrets.len()}),
            ));
        }
        _ => {}
    }
    let secret = state.secrets.get_mut(&named.secret_name());
    let secret = secret
        .ok_or_else(|| Answer::api(404, &format!("Secret [{}] not found.", named.answered())))?;
    match method {
        "addVersion" => return add(secret, &named, call),
        "" if named.versions && named.version.is_none() => return list(secret, &named, call),
        "" if !named.versions => {
            return Ok(Answer::json(
                &json!({"name": named.answered(), "replication": {"automatic": {}}, "versionAliases": secret.aliases}),
            ));
        }
        _ => {}
    }
    let asked = named.version.as_deref().unwrap_or_default();
    let number = match asked {
        // The one made last, whatever its state.
        "latest" => Some(secret.versions.len()).filter(|n| *n > 0),
        text => text
            .parse()
            .ok()
            .or_else(|| secret.aliases.get(text).copied()),
    };
    let version = number.and_then(|n| Some((n, secret.versions.get_mut(n.checked_sub(1)?)?)));
    let (number, version) = version.ok_or_else(|| match asked {
        "latest" => Answer::api(
            404,
            &format!(
                "Secret [{}] not found or has no versions.",
                named.answered()
            ),
        ),
        _ => Answer::api(
            404,
            &format!(
                "Secret Version [{}/versions/{asked}] not found.",
                named.answered()
            ),
        ),
    })?;
    let full = format!("{}/versions/{number}", named.answered());
    let state_text = state_name(version.state);
    match method {
        "access" if version.state != VersionState::Enabled => {
            return Err(Answer::failed_precondition(&format!(
                "Secret Version [{full}] is in {state_text} state."
            )));
        }
        "access" => return Ok(Answer::json(&access(&full, version))),
        "enable" | "disable" if version.state == VersionState::Destroyed => {
            return Err(Answer::failed_precondition(&format!(
                "Secret Version [{full}] is in DESTROYED state."
            )));
        }
        "enable" => version.state = VersionState::Enabled,
        "disable" => version.state = VersionState::Disabled,
        "destroy" => {
            version.state = VersionState::Destroyed;
            version.data.clear();
        }
        _ => {}
    }
    Ok(Answer::json(&described(&full, version)))
}

fn state_name(state: VersionState) -> &'static str {
    match state {
        VersionState::Enabled => "ENABLED",
        VersionState::Disabled => "DISABLED",
        VersionState::Destroyed => "DESTROYED",
    }
}

fn described(full: &str, version: &Version) -> Value {
    json!({
        "name": full,
        "createTime": version.created.to_string(),
        "state": state_name(version.state),
        "replicationStatus": {"automatic": {}},
        "etag": "\"1621f2bf0e1b44\"",
    })
}

fn access(full: &str, version: &Version) -> Value {
    let sum = i64::from(crc32c::crc32c(&version.data));
    let mut payload = json!({});
    // Proto3 JSON leaves empty bytes out, and writes an int64 as text.
    if !version.data.is_empty() {
        payload["data"] = json!(STANDARD.encode(&version.data));
    }
    match version.checksum {
        Checksum::Right => payload["dataCrc32c"] = json!(sum.to_string()),
        Checksum::Wrong => payload["dataCrc32c"] = json!((sum ^ 1).to_string()),
        Checksum::Absent => {}
    }
    json!({"name": full, "payload": payload})
}

fn create(state: &mut State, named: &Named, call: &Call) -> Outcome {
    let id = call.param("secretId").unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if id.is_empty() || id.len() > 255 || !id.chars().all(plain) {
        return Err(Answer::api(
            400,
            "The provided Secret ID does not match the expected format [[a-zA-Z_0-9-]+]",
        )
        .wrong());
    }
    if named.location.is_empty() && !call.json()["replication"].is_object() {
        return Err(Answer::api(400, "Secret.replication must be provided.").wrong());
    }
    let name = format!("{}/secrets/{id}", named.parent);
    if state.secrets.contains_key(&name) {
        return Err(Answer::api(
            409,
            &format!("Secret [{}] already exists.", answered(&name)),
        ));
    }
    state.secrets.insert(name.clone(), Secret::default());
    Ok(Answer::json(
        &json!({"name": answered(&name), "createTime": Timestamp::now().to_string(), "replication": call.json()["replication"]}),
    ))
}

fn add(secret: &mut Secret, named: &Named, call: &Call) -> Outcome {
    let no = |text: &str| Answer::api(400, text).wrong();
    let payload = &call.json()["payload"];
    let text = payload["data"].as_str().filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| no("Secret Payload cannot be empty."))?;
    let data = STANDARD.decode(text).or_else(|_| URL_SAFE.decode(text));
    let data = data
        .map_err(|_| no("Invalid value at 'payload.data' (TYPE_BYTES), Base64 decoding failed"))?;
    if data.len() > LARGEST {
        return Err(no(
            "The secret payload is larger than the maximum of 65536 bytes.",
        ));
    }
    let sum = match &payload["dataCrc32c"] {
        Value::Null => None,
        Value::String(text) => Some(text.parse().ok()),
        number => Some(number.as_i64()),
    };
    if sum.is_some_and(|sum| sum != Some(i64::from(crc32c::crc32c(&data)))) {
        return Err(no("The provided checksum does not match the payload."));
    }
    secret.versions.push(Version::new(data));
    let number = secret.versions.len();
    let full = format!("{}/versions/{number}", named.answered());
    let mut answer = described(&full, &secret.versions[number - 1]);
    if sum.is_some() {
        answer["clientSpecifiedPayloadChecksum"] = json!(true);
    }
    Ok(Answer::json(&answer))
}

/// The newest first, in pages.
fn list(secret: &Secret, named: &Named, call: &Call) -> Outcome {
    let size = call
        .param("pageSize")
        .and_then(|s| s.parse().ok())
        .unwrap_or(0);
    let size: usize = if size == 0 { 25_000 } else { size };
    let start: usize = call
        .param("pageToken")
        .and_then(|t| t.parse().ok())
        .unwrap_or(0);
    let filter = call.param("filter").unwrap_or_default();
    let wanted = filter
        .trim_start_matches("state")
        .trim_start_matches([':', '=']);
    let all: Vec<Value> = secret
        .versions
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, v)| wanted.is_empty() || state_name(v.state).eq_ignore_ascii_case(wanted))
        .map(|(n, v)| described(&format!("{}/versions/{}", named.answered(), n + 1), v))
        .collect();
    let page: Vec<Value> = all.iter().skip(start).take(size).cloned().collect();
    let mut answer = json!({"versions": page, "totalSize": all.len()});
    if start + size < all.len() {
        answer["nextPageToken"] = json!((start + size).to_string());
    }
    Ok(Answer::json(&answer))
}
