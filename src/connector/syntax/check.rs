//! What can only be judged with all streams in view: tables, parents, cursors in bodies, unused keys.

use std::collections::HashMap;

use url::Url;

use super::Lower;
use super::auth::example_url;
use super::stream::Draft;
use crate::connector::model::{Auth, LoginPlace, Step};
use crate::connector::template::Template;
use crate::schema::landing::Disposition;
use crate::yaml::Reader;

/// Tables are distinct; a cursor that goes into the body finds one.
pub(super) fn streams(reader: &mut Reader, drafts: &[Draft]) {
    let mut tables: HashMap<String, &str> = HashMap::new();
    for draft in drafts {
        let stream = &draft.stream;
        let table = stream.table.name.to_ascii_lowercase();
        if let Some(other) = tables.insert(table, &stream.name) {
            reader.findings.error(
                draft.places.table.unwrap_or(draft.at),
                format!(
                    "streams `{other}` and `{}` have the same table, `{}`",
                    stream.name, stream.table.name
                ),
                "names are compared without regard to case".to_owned(),
            );
        }
        if let Step::Cursor { param, .. } = &stream.pagination.step
            && param.starts_with('/')
            && stream.request.body.is_none()
        {
            reader.findings.error(
                draft.at,
                format!(
                    "the page token of stream `{}` goes into the body, and there is none",
                    stream.name
                ),
                "say `method: POST` and `body`, or a query parameter's name in `param`".to_owned(),
            );
        }
    }
}

/// Google's tokens go over https, and access tokens to Google's own hosts.
pub(super) fn google(lower: &mut Lower<'_>, drafts: &[Draft]) {
    for draft in drafts {
        let stream = &draft.stream;
        let access = match lower.auths.get(stream.auth) {
            Some(Auth::GoogleAccessToken { .. }) => true,
            Some(Auth::GoogleIdToken { .. }) => false,
            _ => continue,
        };
        // With config values in it, it shows when the stream is read.
        let Ok(url) = url::Url::parse(stream.base_url.as_str()) else {
            continue;
        };
        let host = url.host_str().unwrap_or_default();
        if host.contains(['{', '}']) || stream.base_url.as_str().contains("{{") {
            continue;
        }
        if url.scheme() != "https" {
            lower.reader.findings.error(
                draft.at,
                format!(
                    "stream `{}` has a token of Google's, which goes over https only",
                    stream.name
                ),
                "write the `base_url` with `https`".to_owned(),
            );
        } else if access && !host.ends_with(".googleapis.com") {
            // In a sovereign cloud it may be; then the token goes there, and nowhere else.
            lower.reader.findings.warning(
                draft.at,
                format!(
                    "stream `{}` has an access token of Google's, and `{host}` is not Google's",
                    stream.name
                ),
                "for a service of your own write `auth: {google: id_token}`".to_owned(),
            );
        }
    }
}

/// Streams that share a session log in at the same place.
pub(super) fn sessions(lower: &mut Lower<'_>, drafts: &[Draft]) {
    for (index, auth) in lower.auths.iter().enumerate() {
        let Auth::Session(session) = auth else {
            continue;
        };
        let mut users = drafts.iter().filter(|d| d.stream.auth == index);
        let Some(first) = users.next() else { continue };
        if matches!(session.login, LoginPlace::Path(_))
            && let Some(other) = users.find(|d| d.stream.base_url != first.stream.base_url)
        {
            lower.reader.findings.error(
                other.at,
                format!(
                    "streams `{}` and `{}` share a session, and have different base URLs",
                    first.stream.name, other.stream.name
                ),
                "say where one logs in as `login: {url: …}`, or give each an `auth` of its own"
                    .to_owned(),
            );
        }
    }
}

/// Warns of a session that logs in at a host that is neither the API's own nor allowed, as far as the file
/// says which they are: a source may allow it, or have another base URL.
pub(super) fn login_hosts(lower: &mut Lower<'_>, drafts: &[Draft], allowed: &[String]) {
    let literal = |template: &Template| {
        let text = template.as_str();
        let (_, rest) = text.split_once("://")?;
        let host = rest.split(['/', '?', '#']).next()?;
        match host.contains('{') {
            true => None,
            false => example_url(text)?.ok(),
        }
    };
    let bases: Option<Vec<Url>> = drafts
        .iter()
        .map(|draft| literal(&draft.stream.base_url))
        .collect();
    // Then a run finds out.
    let Some(mut known) = bases else { return };
    for host in allowed {
        // A login over plain http stays on this machine.
        let schemes = ["https", "http"].iter();
        known.extend(schemes.filter_map(|scheme| Url::parse(&format!("{scheme}://{host}/")).ok()));
    }
    for (at, url) in &lower.login_urls {
        let Some(url) = literal(url) else { continue };
        if !known.iter().any(|known| known.origin() == url.origin()) {
            let host = url.host_str().unwrap_or_default();
            let host = match url.port() {
                Some(port) => format!("{host}:{port}"),
                None => host.to_owned(),
            };
            lower.reader.findings.warning(
                *at,
                format!("`url` logs in at `{host}`, which is no host of the API: a run refuses it"),
                format!("log in at the host of `base_url`, or add `allowed_hosts: ['{host}']`, here or to the source"),
            );
        }
    }
}

/// Warns of an `allow_empty_replace` that ordinary runs do not heed, since none of them says what becomes of
/// all rows. Where it is said for several streams, one that heeds it is enough.
pub(super) fn empty_replace(reader: &mut Reader, drafts: &[Draft]) {
    let said = |draft: &Draft| {
        let mut flags = draft.places.flags.iter();
        let flag = flags.find(|(key, _)| key == "allow_empty_replace");
        flag.map(|(_, at)| *at)
            .filter(|_| draft.stream.table.allow_empty_replace)
    };
    let heeds = |draft: &Draft| {
        let table = &draft.stream.table;
        table.soft_delete || matches!(table.disposition, Disposition::Replace | Disposition::Scd2)
    };
    for draft in drafts {
        let Some(at) = said(draft) else { continue };
        let mut same = drafts.iter().filter(|other| said(other) == Some(at));
        if !same.any(heeds) {
            let disposition = draft.stream.table.disposition.word();
            reader.findings.warning(
                at,
                format!("`allow_empty_replace` has no effect but with `--full-refresh`: with `disposition: {disposition}` a run empties nothing"),
                "leave it out; it is for `disposition: replace`, `scd2` and `soft_delete`".to_owned(),
            );
        }
    }
}

/// Every declared config key is used somewhere, and says what it is.
pub(super) fn config(lower: &mut Lower<'_>, drafts: &[Draft]) {
    let mut used: Vec<String> = Vec::new();
    let mut add = |template: &Template| used.extend(template.config_keys());
    for auth in &lower.auths {
        auth.templates().into_iter().for_each(&mut add);
    }
    let kept = lower.auths.iter().filter_map(Auth::refresh_key);
    used.extend(kept.map(str::to_owned));
    let mut add = |template: &Template| used.extend(template.config_keys());
    for stream in drafts.iter().map(|d| &d.stream) {
        let request = &stream.request;
        let named = request.params.iter().chain(&request.headers);
        named
            .chain(&stream.add_columns)
            .map(|(_, template)| template)
            .chain(&request.body)
            .chain([&stream.base_url, &request.path])
            .chain(stream.incremental.iter().flat_map(|i| &i.start))
            .for_each(&mut add);
    }
    let Some(entries) = lower
        .top
        .get("config")
        .and_then(|node| lower.reader.entries(node, "`config`"))
    else {
        return;
    };
    // While something is wrong, keys may only look unused.
    if lower.reader.findings.failed() {
        return;
    }
    for (entry, key) in entries.iter().zip(&lower.config) {
        if !used.contains(&key.name) {
            lower.reader.findings.warning(
                entry.at,
                format!("config key `{}` is declared and not used", key.name),
                format!("name it as `{{{{ config.{} }}}}`, or take it out", key.name),
            );
        }
        if key.description.is_empty() {
            lower.reader.findings.warning(
                entry.at,
                format!("config key `{}` has no description", key.name),
                "say what it is and where one finds it".to_owned(),
            );
        }
    }
}

/// Parents before children, else in the file's order. A cycle is reported, and its streams left out.
pub(super) fn ordered(reader: &mut Reader, mut waiting: Vec<Draft>) -> Vec<Draft> {
    let mut done: Vec<Draft> = Vec::new();
    loop {
        let ready = waiting.iter().position(|draft| {
            draft.stream.parent.as_ref().is_none_or(|parent| {
                // A parent that is no stream has been reported where it is named.
                !waiting.iter().any(|d| d.stream.name == parent.stream)
            })
        });
        match ready {
            Some(index) => done.push(waiting.remove(index)),
            None => break,
        }
    }
    if let Some(first) = waiting.first() {
        let mut chain = vec![first.stream.name.as_str()];
        let mut at = first;
        while let Some(parent) = &at.stream.parent {
            let Some(next) = waiting.iter().find(|d| d.stream.name == parent.stream) else {
                break;
            };
            let again = chain.iter().position(|name| *name == next.stream.name);
            chain.push(next.stream.name.as_str());
            if let Some(start) = again {
                chain.drain(..start);
                break;
            }
            at = next;
        }
        // One that is its own parent has been reported as that.
        if chain.len() > 2 {
            reader.findings.error(
                first.parent_at,
                format!(
                    "streams are each other's parents: `{}`",
                    chain.join("` ← `")
                ),
                "one of them must be readable without the others".to_owned(),
            );
        }
    }
    done
}
