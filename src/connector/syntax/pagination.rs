//! `pagination`: how pages follow each other.

use super::Lower;
use crate::connector::model::{Locator, PageSize, Pagination, Step};
use crate::yaml::{Fields, Node};

const KINDS: [&str; 6] = [
    "none",
    "page",
    "offset",
    "cursor",
    "link_header",
    "next_url",
];

/// What every kind takes.
const COMMON: [&str; 8] = [
    "has_more",
    "total_pages",
    "total",
    "read_ahead",
    "stop_after_empty_pages",
    "stop_on_short_page",
    "max_pages",
    "max_records",
];

/// Pages after which an API is taken not to come to an end.
const DEFAULT_MAX_PAGES: u64 = 1_000_000;

impl Lower<'_> {
    /// What the node says; one page only when it says nothing.
    pub(super) fn pagination(&mut self, node: Option<&Node>) -> Pagination {
        node.and_then(|node| self.pagination_of(node))
            .unwrap_or_else(|| with(Step::Single))
    }

    fn pagination_of(&mut self, node: &Node) -> Option<Pagination> {
        let (kind, inner) = self.reader.tagged(node, "`pagination`", &KINDS)?;
        let own: &[&str] = match kind {
            "page" => &[
                "page_param",
                "first_page",
                "size_param",
                "size",
                "next_page",
            ],
            "offset" => &["offset_param", "limit_param", "limit"],
            "cursor" => &["param", "next", "size_param", "size"],
            "link_header" => &["rel", "size_param", "size"],
            "next_url" => &["next", "size_param", "size"],
            _ => {
                if let Some(inner) = inner {
                    self.reader.findings.error(
                        inner.at,
                        "`pagination: none` takes nothing more",
                        None,
                    );
                }
                return Some(with(Step::Single));
            }
        };
        let what = format!("`pagination.{kind}`");
        let empty = Node {
            at: node.at,
            value: crate::yaml::Value::Map(Vec::new()),
        };
        let known: Vec<&str> = own.iter().chain(&COMMON).copied().collect();
        let fields = self.reader.fields(inner.unwrap_or(&empty), &what, &known)?;
        let param = |lower: &mut Self, key: &str, default: &str| match fields.get(key) {
            Some(node) => lower
                .reader
                .text(node, &format!("`{key}`"))
                .map(str::to_owned),
            None => Some(default.to_owned()),
        };
        let step = match kind {
            "page" => Step::Page {
                param: param(self, "page_param", "page")?,
                first: match fields.get("first_page") {
                    Some(node) => self.reader.number(node, "`first_page`", 0, u64::MAX)?,
                    None => 1,
                },
                next: self.locator(&fields, "next_page"),
            },
            "offset" => Step::Offset {
                param: param(self, "offset_param", "offset")?,
            },
            "cursor" => {
                let name = self.reader.required(&fields, "param", &what);
                let name = name.and_then(|node| self.reader.text(node, "`param`"));
                let next = self.reader.required(&fields, "next", &what);
                let next = next.and_then(|node| self.locator_of(node, "`next`"));
                Step::Cursor {
                    param: name?.to_owned(),
                    next: next?,
                }
            }
            "link_header" => Step::Link {
                rel: param(self, "rel", "next")?,
            },
            _ => {
                let next = self.reader.required(&fields, "next", &what)?;
                Step::NextUrl {
                    next: self.locator_of(next, "`next`")?,
                }
            }
        };
        let (size_param, size) = match kind {
            "offset" => ("limit_param", "limit"),
            _ => ("size_param", "size"),
        };
        let mut pagination = with(step);
        pagination.size = self.size(&fields, size_param, size);
        self.common(&fields, &mut pagination);
        Some(pagination)
    }

    fn size(&mut self, fields: &Fields<'_>, param_key: &str, size_key: &str) -> Option<PageSize> {
        let param = fields
            .get(param_key)
            .and_then(|node| self.reader.text(node, &format!("`{param_key}`")))
            .map(str::to_owned);
        let value = fields.get(size_key).and_then(|node| {
            self.reader
                .number(node, &format!("`{size_key}`"), 1, 1_000_000)
        });
        if param.is_some() && fields.get(size_key).is_none() {
            let at = fields.entry(param_key).map_or(fields.at, |e| e.at);
            self.reader.findings.error(
                at,
                format!("`{param_key}` is given without `{size_key}`"),
                format!("say how many records to ask for: `{size_key}: 100`"),
            );
        }
        // An offset API is asked for its limit by that name unless the file says otherwise.
        let param = match (param, size_key) {
            (None, "limit") => Some("limit".to_owned()),
            (param, _) => param,
        };
        Some(PageSize {
            param,
            value: value?,
        })
    }

    fn common(&mut self, fields: &Fields<'_>, pagination: &mut Pagination) {
        pagination.has_more = self.locator(fields, "has_more");
        pagination.total_pages = self.locator(fields, "total_pages");
        pagination.total = self.locator(fields, "total");
        if let Some(node) = fields.get("stop_after_empty_pages") {
            let n = self
                .reader
                .number(node, "`stop_after_empty_pages`", 1, 1_000);
            pagination.stop_after_empty_pages = n.and_then(|n| n.try_into().ok()).unwrap_or(1);
        }
        if let Some(node) = fields.get("stop_on_short_page") {
            let flag = self.reader.flag(node, "`stop_on_short_page`");
            pagination.stop_on_short_page = flag.unwrap_or_default();
        }
        if let Some(node) = fields.get("max_pages") {
            let n = self.reader.number(node, "`max_pages`", 1, u64::MAX);
            pagination.max_pages = n.unwrap_or(DEFAULT_MAX_PAGES);
        }
        if let Some(node) = fields.get("max_records") {
            pagination.max_records = self.reader.number(node, "`max_records`", 1, u64::MAX);
        }
        let Some(node) = fields.get("read_ahead") else {
            return;
        };
        pagination.read_ahead = self.reader.flag(node, "`read_ahead`").unwrap_or_default();
        if !pagination.read_ahead {
            return;
        }
        if fields.get("total").is_none() && fields.get("total_pages").is_none() {
            self.reader.findings.error(
                node.at,
                "`read_ahead` needs to know how many pages there are",
                "say where the answer has it: `total_pages: /meta/pages` or `total: header:X-Total`"
                    .to_owned(),
            );
        }
        if !matches!(
            pagination.step,
            Step::Page { .. } | Step::Offset { .. } | Step::Link { .. }
        ) {
            self.reader.findings.error(
                node.at,
                "`read_ahead` cannot know a page's request before the page before it",
                "it works with `page`, `offset` and `link_header`".to_owned(),
            );
        }
    }

    fn locator(&mut self, fields: &Fields<'_>, key: &str) -> Option<Locator> {
        let node = fields.get(key)?;
        self.locator_of(node, &format!("`{key}`"))
    }

    /// `/json/pointer` or `header:X-Total`.
    fn locator_of(&mut self, node: &Node, what: &str) -> Option<Locator> {
        let text = self.reader.text(node, what)?;
        if let Some(name) = text.strip_prefix("header:") {
            let name = name.trim();
            self.header_name(node.at, name)?;
            return Some(Locator::Header(name.to_owned()));
        }
        if is_pointer(text) {
            return Some(Locator::Body(text.to_owned()));
        }
        self.reader.findings.error(
            node.at,
            format!("{what} says no place in an answer"),
            format!(
                "write a JSON pointer, `{}`, or a header, `header:X-Total`",
                as_pointer(text)
            ),
        );
        None
    }

    /// A JSON pointer to the records.
    pub(super) fn records(&mut self, node: Option<&Node>) -> String {
        let Some(node) = node else {
            return String::new();
        };
        let text = self.reader.text(node, "`records`").unwrap_or_default();
        if !text.is_empty() && !is_pointer(text) {
            self.reader.findings.error(
                node.at,
                "`records` is not a JSON pointer",
                format!(
                    "write `{}`, or nothing when the body is the list",
                    as_pointer(text)
                ),
            );
        }
        text.to_owned()
    }
}

fn with(step: Step) -> Pagination {
    Pagination {
        step,
        size: None,
        has_more: None,
        total_pages: None,
        total: None,
        read_ahead: false,
        stop_after_empty_pages: 1,
        stop_on_short_page: false,
        max_pages: DEFAULT_MAX_PAGES,
        max_records: None,
    }
}

fn is_pointer(text: &str) -> bool {
    text.starts_with('/')
        && text
            .split('~')
            .skip(1)
            .all(|rest| rest.starts_with(['0', '1']))
}

/// What `$.data.items` or `data.items` was meant to be.
fn as_pointer(text: &str) -> String {
    let path = text.trim_start_matches(['$', '.', '/']);
    let path = path.trim_end_matches("[*]").trim_end_matches(['.', '/']);
    match path.is_empty() {
        true => "/data".to_owned(),
        false => format!("/{}", path.replace('.', "/")),
    }
}
