//! `table`: where a stream's rows land, and how.

use super::Lower;
use super::incremental::{Layers, Places};
use crate::connector::model::Table;
use crate::schema::landing::{Contract, Disposition, PartitionUnit, Partitioning, WriteMethod};
use crate::yaml::Node;

/// More rejected records than this make a run end non-zero, unless the file says otherwise.
const DEFAULT_MAX_REJECTS: u64 = 100;

/// Keys of `table`.
pub(super) const KEYS: [&str; 10] = [
    "name",
    "partition_by",
    "cluster_by",
    "disposition",
    "write_method",
    "contract",
    "soft_delete",
    "audit_columns",
    "allow_empty_replace",
    "max_rejects",
];

const PARTITION: [&str; 3] = ["column", "per", "fixed"];

impl Lower<'_> {
    /// The table, with the defaults that depend on the stream.
    pub(super) fn table(
        &mut self,
        name: &str,
        stream: Option<Option<&Node>>,
        top: Option<&Node>,
        default_disposition: Disposition,
        places: &mut Places,
    ) -> Table {
        let what = "`table`";
        let (stream, top) = match stream {
            Some(None) => (None, None),
            Some(Some(node)) => (Some(node), top),
            None => (None, top),
        };
        let mut fields = |node| self.reader.fields(node, what, &KEYS);
        let layers = Layers {
            stream: stream.and_then(&mut fields),
            top: top.and_then(&mut fields),
        };
        if let Some(entry) = layers.top.as_ref().and_then(|fields| fields.entry("name")) {
            self.reader.findings.error(
                entry.at,
                "`table.name` stands at the top, where it would name every stream's table",
                "say it in a stream".to_owned(),
            );
        }
        let named = layers.stream.as_ref().and_then(|fields| fields.get("name"));
        places.table = named.map(|node| node.at);
        let table = named.and_then(|node| self.reader.text(node, "`name`"));
        if let Some(node) = named
            && let Some(table) = table
            && let Err(why) = check_table(table)
        {
            self.reader.findings.error(
                node.at,
                format!("`{table}` cannot be a table's name: {why}"),
                None,
            );
        }
        let disposition = layers.get("disposition").and_then(|node| {
            places.disposition = Some(node.at);
            self.reader.choice(
                node,
                "`disposition`",
                &[
                    ("append", Disposition::Append),
                    ("merge", Disposition::Merge),
                    ("replace", Disposition::Replace),
                    ("scd2", Disposition::Scd2),
                ],
            )
        });
        let write_method = layers.get("write_method").and_then(|node| {
            places.write_method = Some(node.at);
            self.reader.choice(
                node,
                "`write_method`",
                &[
                    ("storage_write", WriteMethod::StorageWrite),
                    ("load_job", WriteMethod::LoadJob),
                    ("stream", WriteMethod::Stream),
                    ("insert_all", WriteMethod::InsertAll),
                ],
            )
        });
        let contract = layers.get("contract").and_then(|node| {
            self.reader.choice(
                node,
                "`contract`",
                &[
                    ("evolve", Contract::Evolve),
                    ("freeze", Contract::Freeze),
                    ("discard", Contract::Discard),
                    ("json", Contract::Json),
                ],
            )
        });
        let partition = layers
            .get("partition_by")
            .and_then(|node| self.partition(node, places));
        let mut flag = |key: &str| {
            layers.get(key).and_then(|node| {
                places.flags.push((key.to_owned(), node.at));
                self.reader.flag(node, &format!("`{key}`"))
            })
        };
        let soft_delete = flag("soft_delete").unwrap_or_default();
        let audit_columns = flag("audit_columns").unwrap_or(true);
        let allow_empty_replace = flag("allow_empty_replace").unwrap_or_default();
        let disposition = disposition.unwrap_or(default_disposition);
        let flag_at = places.flags.iter().find(|(key, _)| key == "soft_delete");
        if soft_delete
            && disposition != Disposition::Merge
            && let Some((_, at)) = flag_at
        {
            self.reader.findings.error(
                *at,
                "`soft_delete` is for tables that are merged into",
                match disposition {
                    Disposition::Scd2 => "leave it out: `scd2` gives a row that is no longer listed an end in `_valid_to`",
                    _ => "say `disposition: merge`, with a `primary_key`",
                }
                .to_owned(),
            );
        }
        let mut cluster_by = Vec::new();
        if let Some(node) = layers.get("cluster_by") {
            for (at, column) in self.reader.texts(node, "`cluster_by`") {
                places.cluster_by.push(at);
                cluster_by.push(column.to_owned());
            }
            if cluster_by.len() > 4 {
                self.reader.findings.error(
                    places.cluster_by[4],
                    format!("`cluster_by` has {} columns", cluster_by.len()),
                    "BigQuery clusters by at most 4".to_owned(),
                );
            }
        }
        let max_rejects = layers
            .get("max_rejects")
            .and_then(|node| self.reader.number(node, "`max_rejects`", 0, u64::MAX));
        Table {
            name: table.unwrap_or(name).to_owned(),
            disposition,
            write_method: write_method.unwrap_or_default(),
            contract,
            partition,
            cluster_by,
            soft_delete,
            bare: !audit_columns,
            allow_empty_replace,
            max_rejects: max_rejects.unwrap_or(DEFAULT_MAX_REJECTS),
        }
    }

    /// `created_at`, or `{column: created_at, per: month, fixed: true}`.
    fn partition(&mut self, node: &Node, places: &mut Places) -> Option<Partitioning> {
        if let Some(column) = node.as_text() {
            places.partition_by = Some(node.at);
            return Some(Partitioning {
                column: column.to_owned(),
                unit: PartitionUnit::Day,
                fixed: false,
            });
        }
        let fields = self.reader.fields(node, "`partition_by`", &PARTITION)?;
        let Some(column) = fields.get("column") else {
            self.reader
                .findings
                .error(node.at, "`partition_by` lacks the key `column`", None);
            return None;
        };
        places.partition_by = Some(column.at);
        let units = [
            ("hour", PartitionUnit::Hour),
            ("day", PartitionUnit::Day),
            ("month", PartitionUnit::Month),
            ("year", PartitionUnit::Year),
        ];
        Some(Partitioning {
            column: self.reader.text(column, "`column`")?.to_owned(),
            unit: match fields.get("per") {
                Some(node) => self.reader.choice(node, "`per`", &units)?,
                None => PartitionUnit::Day,
            },
            fixed: match fields.get("fixed") {
                Some(node) => self.reader.flag(node, "`fixed`")?,
                None => false,
            },
        })
    }
}

/// Whether a name can be a table's in every destination.
pub(super) fn check_table(name: &str) -> Result<(), &'static str> {
    let lower = name.to_ascii_lowercase();
    if !super::is_identifier(name) {
        return Err("use letters, digits and underscores, starting with a letter");
    }
    if name.len() > 200 {
        return Err("it is longer than 200 characters");
    }
    if lower.ends_with("__rejects") {
        return Err("names that end with `__rejects` are the rejects tables'");
    }
    if lower.starts_with("_drawoff") {
        return Err("names that start with `_drawoff` are the engine's own");
    }
    Ok(())
}
