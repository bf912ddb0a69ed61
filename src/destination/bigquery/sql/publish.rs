//! The script that makes a slice visible.

use std::fmt::Write as _;

use super::records::Text;
use super::staged::POSITION;
use super::{audit, history, lease, list, merge, replace, staged, unfit};
use crate::destination::bigquery::partitions::Partitions;
use crate::destination::key::unique_key;
use crate::destination::{Disposition, TableSpec, rejects};
use crate::schema::Column;

/// What a publish is about. Tables are quoted names.
pub(in super::super) struct Publish<'a> {
    /// The table as the stream wants it.
    pub spec: &'a TableSpec,
    /// The table.
    pub target: String,
    /// Its columns as they are there; none where they are the stream's.
    pub there: &'a [Column],
    /// Its staged rows, where there are any.
    pub staged: Option<String>,
    /// The rejects table and its staged rows, where there are any.
    pub rejects: Option<(String, String)>,
    /// The rejects table, where some of the staged rows go there: see [`unfit`].
    pub unfit: Option<String>,
    /// The table of checkpoints.
    pub checkpoints: String,
    /// The partitions of the rows with staged keys, before and after; none where the table has no
    /// partitions.
    pub among: Option<Partitions>,
    /// Rows whose key is not staged are closed.
    pub closes: bool,
    /// The partitions of these.
    pub closed: Option<Partitions>,
    /// The table of leases.
    pub leases: String,
    /// The table of loads, and the columns of it that are parameters.
    pub loads: (String, Vec<&'static str>),
}

/// The columns of the last row that [`publish`] answers with.
pub(in super::super) mod answer {
    /// `published`, or `refused` with nothing changed.
    pub(in super::super::super) const OUTCOME: &str = "outcome";
    /// Rows that went into the table.
    pub(in super::super::super) const KEPT: &str = "kept";
    /// Rows found staged.
    pub(in super::super::super) const STAGED: &str = "staged";
    /// Rejects found staged.
    pub(in super::super::super) const REJECTED: &str = "rejected";
    /// The run that holds the lease, when it is another.
    pub(in super::super::super) const HOLDER: &str = "holder";
    /// How often the table was published in a day.
    pub(in super::super::super) const PUBLISHES: &str = "publishes";
}

/// The script that makes a slice visible: parameters `source`, `stream`, `lease`, `expected_version`,
/// `state`, `run_id`, `slice`, `staged`, `rejected`, and those of its row in the table of loads. It changes
/// nothing unless the stored version is the expected one, no other run holds the lease, and
/// everything staged is there to be read.
///
/// Two such scripts never both go through: each deletes the checkpoint's row, which [`super::seed`] has made
/// sure is there, and BigQuery cancels a transaction that mutates a table which another one mutates. So this
/// is its first change: all publishes mutate that table, and one that has to give way does so before it has
/// moved its rows. An INSERT is in nobody's way, and comes last, when the counts are known.
pub(in super::super) fn publish(p: &Publish<'_>) -> String {
    let key = unique_key(p.spec);
    let columns = &p.spec.schema.columns;
    let unfit = p.staged.as_ref().zip(p.unfit.as_ref());
    let staged = match unfit {
        Some((staged, _)) => Some(unfit::fit(columns, p.there, staged)),
        None => p.staged.clone(),
    };
    let mut sql = String::from(
        "DECLARE stored INT64 DEFAULT 0;\n\
         DECLARE rejected INT64 DEFAULT 0;\n\
         DECLARE holder STRING DEFAULT NULL;\n\
         DECLARE row_counts STRUCT<staged INT64, kept INT64> DEFAULT STRUCT(0, 0);\n",
    );
    if let Some(staged) = &staged {
        if p.spec.disposition == Disposition::Scd2 {
            sql.push_str(&history::declare());
            sql.push_str(&history::find(staged));
        }
        let from = match key {
            None => format!("SELECT AS STRUCT COUNT(*) AS staged, COUNT(*) AS kept FROM {staged}"),
            Some(key) => format!(
                "SELECT AS STRUCT COUNT(*) AS staged, COUNTIF({POSITION} = 1) AS kept FROM (\n  \
                 SELECT {} FROM {staged})",
                staged::position(p.spec, key)
            ),
        };
        let _ = writeln!(sql, "SET row_counts = ({from});");
    }
    if let Some((_, staged)) = &p.rejects {
        let _ = writeln!(sql, "SET rejected = (SELECT COUNT(*) FROM {staged});");
    }
    if let Some((staged, _)) = unfit {
        let number = unfit::number(columns, p.there, staged);
        let _ = writeln!(sql, "SET rejected = rejected + {number};");
    }
    let _ = writeln!(
        sql,
        "BEGIN TRANSACTION;\n\
         SET stored = (SELECT IFNULL(MAX(version), 0) FROM {0} WHERE source = @source AND stream = @stream);\n\
         SET holder = {1};\n\
         IF stored != @expected_version OR holder IS NOT NULL OR row_counts.staged != @staged OR rejected != @rejected THEN\n  \
         ROLLBACK TRANSACTION;\n  \
         SELECT 'refused' AS outcome, row_counts.staged AS staged, row_counts.kept AS kept, rejected AS rejected, {1} AS holder, 0 AS publishes;\n  \
         RETURN;\n\
         END IF;\n\
         DELETE FROM {0} WHERE source = @source AND stream = @stream;",
        p.checkpoints,
        // Read again: a variable that was set in a transaction may be rolled back with it.
        lease::other(&p.leases)
    );
    sql.push_str(&rows(p, key, staged.as_deref()));
    if let Some((target, staged)) = &p.rejects {
        let columns = list(&rejects::schema().columns);
        let _ = writeln!(
            sql,
            "INSERT INTO {target} ({columns})\nSELECT {columns}\nFROM {staged};"
        );
    }
    if let Some((staged, rejects)) = unfit {
        sql.push_str(&unfit::keep(columns, p.there, staged, rejects));
    }
    let _ = write!(
        sql,
        "INSERT INTO {0} (source, stream, version, state, run_id, slice, published, deduplicated, updated_at)\n\
         VALUES (@source, @stream, @expected_version + 1, @state, @run_id, @slice, \
         row_counts.kept, row_counts.staged - row_counts.kept, CURRENT_TIMESTAMP());\n\
         {1}\
         COMMIT TRANSACTION;\n\
         SELECT 'published' AS outcome, row_counts.staged AS staged, row_counts.kept AS kept, rejected AS rejected, holder AS holder, {2} AS publishes;\n",
        p.checkpoints,
        audit::load(&p.loads.0, &p.loads.1),
        audit::publishes(&p.loads.0)
    );
    sql
}

/// What becomes of the table's rows.
fn rows(p: &Publish<'_>, key: Option<&[String]>, staged: Option<&str>) -> String {
    let (spec, target) = (p.spec, &p.target);
    let text = match p.unfit {
        Some(_) => Text::Mixed,
        None => Text::Sound,
    };
    let there = (p.there, text);
    let filter = |of: &Option<Partitions>| of.as_ref().map(|p| p.filter(merge::OLD));
    let (among, closed) = (filter(&p.among), filter(&p.closed));
    let insert = |staged: &str| {
        format!(
            "INSERT INTO {target} ({})\nSELECT {}\n{};\n",
            list(&spec.schema.columns),
            staged::values(&spec.schema.columns, p.there, text),
            staged::unique(spec, key, staged)
        )
    };
    let mut sql = match spec.disposition {
        Disposition::Replace => replace::empty(target),
        _ => String::new(),
    };
    if let Some(staged) = staged {
        sql.push_str(&match spec.disposition {
            Disposition::Append | Disposition::Replace => insert(staged),
            Disposition::Merge => merge::merge(spec, there, target, staged, among.as_deref()),
            Disposition::Scd2 => history::publish(spec, there, target, staged, among.as_deref()),
        });
    }
    if p.closes {
        sql.push_str(&match spec.disposition {
            Disposition::Append | Disposition::Replace => String::new(),
            Disposition::Merge => merge::mark_deleted(spec, target, staged, closed.as_deref()),
            Disposition::Scd2 => history::end_unlisted(spec, target, staged, closed.as_deref()),
        });
    }
    sql
}
