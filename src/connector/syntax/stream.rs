//! One stream: its own keys over those at the top of the file.

use http::Method;

use super::incremental::Places;
use super::place::{May, ParentUse};
use super::table::check_table;
use super::{INNER, Lower};
use crate::connector::model::{CursorField, Parent, RequestTemplate, Stream};
use crate::connector::template::Template;
use crate::error::nearest;
use crate::schema::landing::Disposition;
use crate::schema::name;
use crate::yaml::{Entry, Fields, Node, Position, Value};

/// Keys of a stream.
pub(super) const KEYS: [&str; 17] = [
    "path",
    "description",
    "base_url",
    "auth",
    "method",
    "params",
    "headers",
    "body",
    "repeatable",
    "ignore_status",
    "retry_status",
    "pagination",
    "records",
    "primary_key",
    "incremental",
    "table",
    "add_columns",
];

/// A stream with the places of what it says.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub at: Position,
    pub stream: Stream,
    pub parent_at: Position,
    pub places: Places,
}

/// A stream's keys over the top's.
struct Said<'n> {
    stream: Fields<'n>,
    top: Fields<'n>,
}

impl<'n> Said<'n> {
    fn get(&self, key: &str) -> Option<&'n Node> {
        match self.stream.entry(key) {
            Some(entry) => Some(&entry.node).filter(|node| !node.is_null()),
            None => self.top.get(key),
        }
    }

    /// The stream's own word: `Some(None)` when it says nothing with `~`.
    fn own(&self, key: &str) -> Option<Option<&'n Node>> {
        self.stream
            .entry(key)
            .map(|e| Some(&e.node).filter(|node| !node.is_null()))
    }
}

impl<'n> Lower<'n> {
    pub(super) fn stream(&mut self, entry: &'n Entry, names: &[&str]) -> Option<Draft> {
        let name = entry.key.as_str();
        let table_name = check_table(name);
        if let Err(why) = table_name {
            self.reader.findings.error(
                entry.at,
                format!("`{name}` cannot be a stream's name: {why}"),
                None,
            );
        }
        let empty: &'n [Entry] = &[];
        let own = match &entry.node.value {
            Value::Null => Fields::new(entry.at, empty),
            _ => {
                let what = format!("stream `{name}`");
                self.reader.fields_with(&entry.node, &what, &KEYS, &INNER)?
            }
        };
        let said = Said {
            stream: own,
            top: self.top,
        };
        let mut places = Places::default();
        let mut parents = Vec::new();

        let incremental = self.incremental(
            said.own("incremental"),
            said.top.get("incremental"),
            &mut places,
        );
        let may = May {
            parent: true,
            bounds: incremental.is_some(),
            path: false,
        };
        let request = self.request(name, &said, may, &mut parents);
        let auth = self.auth(said.get("auth"));
        let base_url = match said.get("base_url") {
            Some(node) => {
                let base_url = self.base_url(node)?;
                self.guard_base_url(node.at, &base_url, auth);
                base_url
            }
            None => {
                self.reader.findings.error(
                    self.top.at,
                    "the connector lacks the key `base_url`",
                    "say it at the top, or in every stream".to_owned(),
                );
                return None;
            }
        };
        let pagination = self.pagination(said.get("pagination"));
        let records = self.records(said.get("records"));
        let primary_key = self.primary_key(&said, &mut places);
        let columns = self.merged(&said, "add_columns");
        let add_columns = self.add_columns(&columns, &mut parents, &mut places);
        let default = match (primary_key.is_empty(), incremental.is_some()) {
            (false, _) => Disposition::Merge,
            (true, true) => Disposition::Append,
            (true, false) => Disposition::Replace,
        };
        let table = self.table(
            name,
            said.own("table"),
            said.top.get("table"),
            default,
            &mut places,
        );
        if table.disposition.is_keyed() && primary_key.is_empty() {
            self.reader.findings.error(
                places.disposition.unwrap_or(entry.at),
                match table.disposition {
                    Disposition::Scd2 => format!(
                        "stream `{name}` keeps the history of each row, which `scd2` tells by its `primary_key`, and has none"
                    ),
                    _ => format!("stream `{name}` is to be merged by its `primary_key`, and has none"),
                },
                "name the columns that make a row: `primary_key: [id]`".to_owned(),
            );
        }
        if table.disposition == Disposition::Append && incremental.is_none() {
            self.reader.findings.warning(
                places.disposition.unwrap_or(entry.at),
                format!(
                    "stream `{name}` is not incremental, so each run reads all of it and `append` adds every row again"
                ),
                "say `incremental`, or `disposition: replace`, or `merge` with a `primary_key`; leave it where each run is to add a copy of its own"
                    .to_owned(),
            );
        }
        if table.write_method.is_direct() && table.disposition != Disposition::Append {
            self.reader.findings.error(
                places.write_method.unwrap_or(entry.at),
                format!(
                    "`write_method: {}` puts the rows of stream `{name}` straight into its table, which can only be appended to so, and its disposition is `{}`",
                    table.write_method.word(),
                    table.disposition.word()
                ),
                "say `disposition: append`, or leave `write_method` out".to_owned(),
            );
        }
        let description = match own.get("description") {
            Some(node) => self
                .reader
                .text(node, "`description`")
                .unwrap_or_default()
                .trim_end(),
            None => "",
        };
        let parent_at = parents.first().map_or(entry.at, |p| p.at);
        let parent = self.parent(name, &parents, names);
        if parents.is_empty() {
            self.no_parent(entry.at, name, request.as_ref(), &add_columns);
        }
        let mut draft = Draft {
            at: entry.at,
            parent_at,
            places,
            stream: Stream {
                name: name.to_owned(),
                description: description.to_owned(),
                base_url,
                request: request?,
                auth,
                parent,
                pagination,
                records,
                incremental,
                primary_key,
                table,
                add_columns,
                schema: None,
            },
        };
        self.cursor(&mut draft, names);
        Some(draft)
    }

    fn request(
        &mut self,
        name: &str,
        said: &Said<'n>,
        may: May,
        parents: &mut Vec<ParentUse>,
    ) -> Option<RequestTemplate> {
        let path = match said.stream.get("path") {
            Some(node) => self.path(node, may, parents),
            None => Template::parse(format!("/{name}")).ok(),
        };
        let params = self.merged(said, "params");
        let params = self.params(&params, may, parents);
        let headers = self.merged(said, "headers");
        let headers = self.headers(&headers, may, parents);
        // A method that is neither is reported; its body is not a second mistake.
        let post = said.get("method").is_some_and(|node| {
            let choices = [("GET", false), ("POST", true)];
            self.reader
                .choice(node, "`method`", &choices)
                .unwrap_or(true)
        });
        let body = match said.get("body") {
            Some(node) if !post => {
                self.reader.findings.error(
                    node.at,
                    "`body` is given, and the method is GET",
                    "say `method: POST`".to_owned(),
                );
                None
            }
            Some(node) => self.body(node, may, parents),
            None => None,
        };
        let repeatable = said
            .get("repeatable")
            .and_then(|node| self.reader.flag(node, "`repeatable`"));
        let ignore_status = self.statuses(said.get("ignore_status"), "`ignore_status`");
        let retry_status = self.statuses(said.get("retry_status"), "`retry_status`");
        if let (Some(node), Some(both)) = (
            said.get("retry_status"),
            retry_status.iter().find(|s| ignore_status.contains(s)),
        ) {
            self.reader.findings.error(
                node.at,
                format!("status {both} is both to be retried and to be ignored"),
                None,
            );
        }
        Some(RequestTemplate {
            method: if post { Method::POST } else { Method::GET },
            path: path?,
            params,
            headers,
            body,
            repeatable: repeatable.unwrap_or(!post),
            ignore_status,
            retry_status,
        })
    }

    fn statuses(&mut self, node: Option<&Node>, what: &str) -> Vec<u16> {
        let Some(node) = node else {
            return Vec::new();
        };
        let mut statuses = Vec::new();
        for (at, text) in self.reader.texts(node, what) {
            match text.parse::<u16>() {
                Ok(401) => self.reader.findings.error(
                    at,
                    format!("{what} has 401, which says that the credentials are wrong"),
                    None,
                ),
                Ok(status @ 400..=599) => statuses.push(status),
                _ => self.reader.findings.error(
                    at,
                    format!("{what} takes statuses from 400 to 599"),
                    None,
                ),
            }
        }
        statuses
    }

    /// The top's map with the stream's over it, key by key; `~` takes a key away.
    fn merged(&mut self, said: &Said<'n>, key: &str) -> Vec<&'n Entry> {
        let what = format!("`{key}`");
        let mut entries = |node| self.reader.entries(node, &what).unwrap_or_default();
        let own = match said.own(key) {
            Some(None) => return Vec::new(),
            Some(Some(node)) => entries(node),
            None => &[],
        };
        let top = said.top.get(key).map(entries).unwrap_or_default();
        let same = |a: &Entry, b: &Entry| match key {
            "headers" => a.key.eq_ignore_ascii_case(&b.key),
            _ => a.key == b.key,
        };
        top.iter()
            .filter(|t| !own.iter().any(|o| same(o, t)))
            .chain(own)
            .filter(|entry| !entry.node.is_null())
            .collect()
    }

    fn primary_key(&mut self, said: &Said<'n>, places: &mut Places) -> Vec<String> {
        let Some(node) = said.get("primary_key") else {
            return Vec::new();
        };
        let mut columns: Vec<String> = Vec::new();
        for (at, column) in self.reader.texts(node, "`primary_key`") {
            if let Err(why) = name::check(column) {
                self.reader.findings.error(
                    at,
                    format!("`{column}` cannot be a column of `primary_key`: {why}"),
                    None,
                );
            }
            if columns.iter().any(|c| c.eq_ignore_ascii_case(column)) {
                self.reader
                    .findings
                    .error(at, format!("`primary_key` has `{column}` twice"), None);
            }
            places.primary_key.push(at);
            columns.push(column.to_owned());
        }
        columns
    }

    fn add_columns(
        &mut self,
        entries: &[&Entry],
        parents: &mut Vec<ParentUse>,
        places: &mut Places,
    ) -> Vec<(String, Template)> {
        let may = May {
            parent: true,
            ..May::CONFIG
        };
        let mut columns = Vec::new();
        for entry in entries {
            if let Err(why) = name::check(&entry.key) {
                self.reader.findings.error(
                    entry.at,
                    format!("`{}` cannot be a column: {why}", entry.key),
                    None,
                );
            }
            let what = format!("added column `{}`", entry.key);
            let Some(value) = self.template(&entry.node, &what, may, parents) else {
                continue;
            };
            if self.uses_secret(&value) {
                self.reader.findings.error(
                    entry.node.at,
                    format!("{what} would write a secret into every row"),
                    None,
                );
            }
            places.add_columns.push(entry.at);
            columns.push((entry.key.clone(), value));
        }
        columns
    }

    /// Reports `parent` in the templates of a stream that has none.
    fn no_parent(
        &mut self,
        at: Position,
        name: &str,
        request: Option<&RequestTemplate>,
        columns: &[(String, Template)],
    ) {
        let named = |(_, template): &(String, Template)| names_parent(template);
        let used = columns.iter().any(named)
            || request.is_some_and(|request| {
                names_parent(&request.path)
                    || request.body.as_ref().is_some_and(names_parent)
                    || request.params.iter().any(named)
                    || request.headers.iter().any(named)
            });
        if used {
            self.reader.findings.error(
                at,
                format!("stream `{name}` uses `parent`, and names none"),
                "name a parent's field as `{stream.field}`".to_owned(),
            );
        }
    }

    /// The one parent that the uses name.
    fn parent(&mut self, name: &str, uses: &[ParentUse], names: &[&str]) -> Option<Parent> {
        let first = uses.first()?;
        let mut parent = Parent {
            stream: first.stream.clone(),
            fields: Vec::new(),
        };
        for one in uses {
            if !names.contains(&one.stream.as_str()) {
                self.reader.findings.error(
                    one.at,
                    format!("`{{{}.{}}}` names no stream", one.stream, one.field),
                    match nearest(&one.stream, names.iter().copied()) {
                        Some(near) => format!("did you mean `{{{near}.{}}}`?", one.field),
                        None => format!("the streams are `{}`", names.join("`, `")),
                    },
                );
            } else if one.stream == name {
                self.reader.findings.error(
                    one.at,
                    format!("stream `{name}` is its own parent"),
                    None,
                );
            } else if one.stream != parent.stream {
                self.reader.findings.error(
                    one.at,
                    format!(
                        "stream `{name}` has two parents, `{}` and `{}`",
                        parent.stream, one.stream
                    ),
                    "a stream is read for the records of one other".to_owned(),
                );
            } else if !parent.fields.contains(&one.field) {
                parent.fields.push(one.field.clone());
            }
        }
        Some(parent)
    }

    /// Tells a parent's cursor (`tickets.updated_at`) from a field of the stream's own records, and
    /// checks what goes with it.
    fn cursor(&mut self, draft: &mut Draft, names: &[&str]) {
        let at = draft.places.cursor.unwrap_or(draft.at);
        let window_at = draft.places.window.unwrap_or(at);
        let stream = &mut draft.stream;
        let uses = |bound: &str| {
            let request = &stream.request;
            let texts = request.params.iter().chain(&request.headers);
            texts
                .map(|(_, t)| t)
                .chain(&request.body)
                .chain([&request.path])
                .any(|t| t.names().iter().any(|n| n == bound))
        };
        let (bounded_below, bounded_above) = (uses("since"), uses("until"));
        let Some(incremental) = &mut stream.incremental else {
            return;
        };
        let CursorField::Own(cursor) = &incremental.cursor else {
            return;
        };
        if let Some((first, rest)) = cursor.split_once('.') {
            match &stream.parent {
                Some(parent) if parent.stream == first => {
                    incremental.cursor = CursorField::Parent(rest.to_owned());
                }
                _ if names.contains(&first) => self.reader.findings.error(
                    at,
                    format!(
                        "the cursor is a field of `{first}`, which is not the parent of `{}`",
                        stream.name
                    ),
                    format!("name the parent in the path: `{{{first}.id}}`"),
                ),
                _ => {}
            }
        }
        if incremental.window.is_some() && incremental.until_param.is_none() && !bounded_above {
            self.reader.findings.error(
                window_at,
                "`window` needs an upper bound in the request",
                "say `until_param`, or use `{{ until }}` in a parameter or the body".to_owned(),
            );
        }
        if stream.table.disposition == Disposition::Append && !incremental.lookback.is_zero() {
            self.reader.findings.warning(
                at,
                "`lookback` has no effect: rows are only added, so none is read twice",
                "name the `primary_key` to have late rows merged".to_owned(),
            );
        }
        let reads_all = matches!(incremental.cursor, CursorField::Own(_))
            && incremental.since_param.is_none()
            && !bounded_below;
        if reads_all {
            self.reader.findings.warning(
                at,
                "nothing in the request asks for new records only, so every run reads all",
                "say `since_param`, or use `{{ since }}` in a parameter or the body".to_owned(),
            );
        } else if stream.table.disposition == Disposition::Replace {
            self.reader.findings.error(
                draft.places.disposition.unwrap_or(at),
                format!(
                    "stream `{}` is incremental: a run reads what is new, and `replace` would leave only that in the table",
                    stream.name
                ),
                "leave `incremental` out, so that each run reads everything; or say `disposition: merge` with a `primary_key`, or `append`"
                    .to_owned(),
            );
        }
    }
}

fn names_parent(template: &Template) -> bool {
    let names = template.names();
    names
        .iter()
        .any(|n| n == "parent" || n.starts_with("parent."))
}
