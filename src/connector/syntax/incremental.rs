//! `incremental`: how a stream reads only what is new.

use super::Lower;
use super::place::May;
use crate::connector::model::{CursorField, Incremental, TimeFormat};
use crate::connector::template::Template;
use crate::yaml::{Fields, Node, Position};

/// Config key that is every incremental stream's `start` unless the file says otherwise.
const START_KEY: &str = "start_date";

/// Keys of `incremental`.
pub(super) const KEYS: [&str; 8] = [
    "cursor",
    "since_param",
    "until_param",
    "lookback",
    "start",
    "window",
    "format",
    "sorted",
];

/// Two maps of the same keys: the stream's, over the one at the top of the file.
pub(super) struct Layers<'n> {
    pub(super) stream: Option<Fields<'n>>,
    pub(super) top: Option<Fields<'n>>,
}

impl<'n> Layers<'n> {
    pub(super) fn get(&self, key: &str) -> Option<&'n Node> {
        match self.stream.as_ref().and_then(|fields| fields.entry(key)) {
            Some(entry) => Some(&entry.node).filter(|node| !node.is_null()),
            None => self.top.as_ref()?.get(key),
        }
    }
}

/// Places of what was said, for checks that need the whole file.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    pub cursor: Option<Position>,
    pub window: Option<Position>,
    pub table: Option<Position>,
    pub disposition: Option<Position>,
    pub partition_by: Option<Position>,
    pub write_method: Option<Position>,
    /// Flags of the table, by key.
    pub flags: Vec<(String, Position)>,
    pub cluster_by: Vec<Position>,
    pub primary_key: Vec<Position>,
    pub add_columns: Vec<Position>,
}

impl Lower<'_> {
    /// What the stream's node and the top's say together. `Some(None)` in `stream` is a stream that
    /// says nothing (`~`), which goes back to the default.
    pub(super) fn incremental(
        &mut self,
        stream: Option<Option<&Node>>,
        top: Option<&Node>,
        places: &mut Places,
    ) -> Option<Incremental> {
        let off = |node: &Node| node.as_text() == Some("none");
        let (stream, top) = match stream {
            Some(None) => return None,
            Some(Some(node)) if off(node) => return None,
            Some(Some(node)) => (Some(node), top.filter(|node| !off(node))),
            None => (None, Some(top.filter(|node| !off(node))?)),
        };
        let at = stream.or(top)?.at;
        let what = "`incremental`";
        let mut fields = |node| self.reader.fields(node, what, &KEYS);
        let layers = Layers {
            stream: stream.and_then(&mut fields),
            top: top.and_then(&mut fields),
        };
        let Some(node) = layers.get("cursor") else {
            if layers.stream.is_some() || layers.top.is_some() {
                self.reader.findings.error(
                    at,
                    format!("{what} lacks the key `cursor`"),
                    "name the column that says how new a record is: `cursor: updated_at`"
                        .to_owned(),
                );
            }
            return None;
        };
        places.cursor = Some(node.at);
        let cursor = self.reader.text(node, "`cursor`")?.to_owned();
        let param = |lower: &mut Self, key: &str| {
            let node = layers.get(key)?;
            let text = lower.reader.text(node, &format!("`{key}`"))?;
            Some(text.to_owned())
        };
        let since_param = param(self, "since_param");
        let until_param = param(self, "until_param");
        let lookback = layers
            .get("lookback")
            .and_then(|node| self.reader.duration(node, "`lookback`"));
        let start = match layers.get("start") {
            Some(node) => self.template(node, "`start`", May::CONFIG, &mut Vec::new()),
            None => self
                .config
                .iter()
                .any(|key| key.name == START_KEY)
                .then(|| Template::parse(format!("{{{{ config.{START_KEY} }}}}")).ok())
                .flatten(),
        };
        let window = layers.get("window").and_then(|node| {
            places.window = Some(node.at);
            self.reader.duration_above_zero(node, "`window`")
        });
        let format = layers.get("format").and_then(|node| self.time_format(node));
        let sorted = layers
            .get("sorted")
            .and_then(|node| self.reader.flag(node, "`sorted`"));
        Some(Incremental {
            cursor: CursorField::Own(cursor),
            since_param,
            until_param,
            format: format.unwrap_or(TimeFormat::Rfc3339),
            lookback: lookback.unwrap_or_default(),
            start,
            window,
            sorted: sorted.unwrap_or_default(),
        })
    }

    fn time_format(&mut self, node: &Node) -> Option<TimeFormat> {
        let text = self.reader.text(node, "`format`")?;
        let known = ["rfc3339", "date", "epoch", "epoch_ms"];
        match text {
            "rfc3339" => Some(TimeFormat::Rfc3339),
            "date" => Some(TimeFormat::Date),
            "epoch" => Some(TimeFormat::EpochSeconds),
            "epoch_ms" => Some(TimeFormat::EpochMillis),
            pattern if pattern.contains('%') => {
                let tried = jiff::fmt::strtime::format(
                    pattern,
                    &jiff::Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC),
                );
                if let Err(e) = tried {
                    self.reader.findings.error(
                        node.at,
                        format!("`format` is no strftime pattern: {e}"),
                        None,
                    );
                    return None;
                }
                Some(TimeFormat::Strftime(pattern.to_owned()))
            }
            other => {
                self.reader.findings.error(
                    node.at,
                    format!(
                        "`format` must be one of `{}` or a strftime pattern",
                        known.join("`, `")
                    ),
                    crate::error::nearest(other, known)
                        .map(|near| format!("did you mean `{near}`?")),
                );
                None
            }
        }
    }
}
