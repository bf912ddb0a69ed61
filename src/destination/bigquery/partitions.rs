//! Which partitions of a table a publish touches, and the literal filter that says so: BigQuery reads,
//! and bills, only the partitions that constants in the statement rule in.

use std::collections::BTreeSet;

use arrow_array::{Array, RecordBatch};
use jiff::ToSpan;
use jiff::civil::{Date, DateTime, date};

use crate::destination::{PartitionUnit, TableSpec};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::ColumnType;
use crate::schema::render::Cells;

/// Most partitions that one job may modify (BigQuery's quota page, 2026-08).
pub(super) const MOST_TOUCHED: usize = 4_000;

/// Most ranges in a filter; beyond that, those with the smallest gaps between them become one.
const MOST_RANGES: usize = 32;

const MICROS_PER_DAY: i64 = 86_400_000_000;
const MICROS_PER_HOUR: i64 = 3_600_000_000;

/// Values before the first and from the second on lie in the partition `__UNPARTITIONED__`.
const PARTITIONED: (Date, Date) = (date(1960, 1, 1), date(2160, 1, 1));
const EPOCH: Date = date(1970, 1, 1);

/// The partitions that some rows lie in. Holds at most one more than a job may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partitions {
    column: String,
    kind: ColumnType,
    unit: PartitionUnit,
    /// Hours, days, months or years since 1970 began.
    numbers: BTreeSet<i64>,
    /// `__NULL__`.
    null: bool,
    /// The two ends of `__UNPARTITIONED__`.
    before: bool,
    after: bool,
}

impl Partitions {
    /// None yet, of that table; `None` where it is not partitioned.
    pub(super) fn of(spec: &TableSpec) -> Option<Self> {
        let partition = spec.partition.as_ref()?;
        let column = spec.schema.column(&partition.column)?;
        Some(Self {
            column: column.name.clone(),
            kind: column.kind,
            unit: partition.unit,
            numbers: BTreeSet::new(),
            null: false,
            before: false,
            after: false,
        })
    }

    /// The partitioning column.
    pub(super) fn column(&self) -> &str {
        &self.column
    }

    /// Its type.
    pub(super) fn kind(&self) -> ColumnType {
        self.kind
    }

    /// Size of a partition.
    pub(super) fn unit(&self) -> PartitionUnit {
        self.unit
    }

    /// Takes in those of a batch's rows.
    ///
    /// # Errors
    /// [`ErrorKind::Bug`] for a batch without the column.
    pub(super) fn add_batch(&mut self, batch: &RecordBatch) -> Result<()> {
        let schema = batch.schema_ref();
        let found = schema
            .fields()
            .iter()
            .position(|f| f.name().eq_ignore_ascii_case(&self.column));
        let at = found.ok_or_else(|| {
            Error::new(
                ErrorKind::Bug,
                format!("a batch lacks the partitioning column `{}`", self.column),
            )
        })?;
        let cells = Cells::of(schema.field(at), batch.column(at))?;
        let mut last = None;
        for row in 0..batch.num_rows() {
            let value = match &cells {
                Cells::Timestamp(a) | Cells::DateTime(a) => a.is_valid(row).then(|| a.value(row)),
                Cells::Date(a) => a.is_valid(row).then(|| a.value(row).into()),
                _ => None,
            };
            // Neighbours often share their value.
            if last != Some(value) {
                self.add(value);
                last = Some(value);
            }
        }
        Ok(())
    }

    /// Takes in that of a value: days since 1970 for a DATE, else microseconds.
    pub(super) fn add(&mut self, value: Option<i64>) {
        let Some(value) = value else {
            self.null = true;
            return;
        };
        let days = match self.kind {
            ColumnType::Date => value,
            _ => value.div_euclid(MICROS_PER_DAY),
        };
        if days < days_to(PARTITIONED.0) {
            self.before = true;
        } else if days >= days_to(PARTITIONED.1) {
            self.after = true;
        } else if self.numbers.len() <= MOST_TOUCHED {
            let number = match self.unit {
                PartitionUnit::Hour => value.div_euclid(MICROS_PER_HOUR),
                PartitionUnit::Day => days,
                PartitionUnit::Month | PartitionUnit::Year => {
                    let day = EPOCH.saturating_add(days.days());
                    let years = i64::from(day.year()) - 1970;
                    match self.unit {
                        PartitionUnit::Month => years * 12 + i64::from(day.month()) - 1,
                        _ => years,
                    }
                }
            };
            self.numbers.insert(number);
        }
    }

    /// Takes in all of another set of the same table.
    pub(super) fn extend(&mut self, other: &Self) {
        self.numbers.extend(&other.numbers);
        self.null |= other.null;
        self.before |= other.before;
        self.after |= other.after;
    }

    /// Whether one job may touch them all.
    ///
    /// # Errors
    /// [`ErrorKind::Schema`] naming the table and what would help.
    pub(super) fn check(&self, table: &str) -> Result<()> {
        let others = usize::from(self.null) + usize::from(self.before || self.after);
        if self.numbers.len() + others <= MOST_TOUCHED {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Schema,
            format!(
                "a slice of table `{table}` touches more than {MOST_TOUCHED} partitions by {} of `{}`, which is the most that BigQuery changes in one job; nothing was changed",
                self.unit.sql(),
                self.column
            ),
        )
        .hint(format!(
            "make slices smaller (`incremental: {{window: …}}`, or fewer rows by `{}`), or partitions larger (`partition_by: {{column: {}, per: month}}`, for a table that is made anew)",
            crate::config::SLICE_ROWS,
            self.column
        )))
    }

    /// A filter on `alias` that all rows in these partitions pass.
    pub(super) fn filter(&self, alias: &str) -> String {
        let column = format!("{alias}.{}", super::sql::ident(&self.column));
        let mut any: Vec<String> = self
            .ranges()
            .into_iter()
            .map(|(first, last)| {
                format!(
                    "{column} >= {} AND {column} < {}",
                    self.literal(self.start_of(first)),
                    self.literal(self.start_of(last + 1))
                )
            })
            .collect();
        if self.before {
            any.push(format!("{column} < {}", self.first()));
        }
        if self.after {
            any.push(format!("{column} >= {}", self.end()));
        }
        if self.null {
            any.push(format!("{column} IS NULL"));
        }
        match any.as_slice() {
            [] => "FALSE".to_owned(),
            [one] => format!("({one})"),
            _ => format!("(({}))", any.join(") OR (")),
        }
    }

    /// The first value that has a partition of its own, as a literal.
    pub(super) fn first(&self) -> String {
        self.literal(PARTITIONED.0.at(0, 0, 0, 0))
    }

    /// The first value behind all that have one, as a literal.
    pub(super) fn end(&self) -> String {
        self.literal(PARTITIONED.1.at(0, 0, 0, 0))
    }

    /// A literal of the column's type; whole seconds, which partitions begin with.
    fn literal(&self, at: DateTime) -> String {
        match self.kind {
            ColumnType::Date => format!("DATE '{}'", at.date()),
            ColumnType::DateTime => format!("DATETIME '{} {}'", at.date(), at.time()),
            _ => format!("TIMESTAMP '{} {}+00'", at.date(), at.time()),
        }
    }

    fn start_of(&self, number: i64) -> DateTime {
        let start = EPOCH.at(0, 0, 0, 0);
        match self.unit {
            PartitionUnit::Hour => start.saturating_add(number.hours()),
            PartitionUnit::Day => start.saturating_add(number.days()),
            PartitionUnit::Month => start.saturating_add(number.months()),
            PartitionUnit::Year => start.saturating_add(number.years()),
        }
    }

    /// First and last numbers of contiguous partitions, ascending.
    fn ranges(&self) -> Vec<(i64, i64)> {
        let mut ranges: Vec<(i64, i64)> = Vec::new();
        for number in &self.numbers {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *number => *last = *number,
                _ => ranges.push((*number, *number)),
            }
        }
        if ranges.len() <= MOST_RANGES {
            return ranges;
        }
        // The widest gaps stay.
        let mut gaps: Vec<(i64, usize)> = ranges
            .windows(2)
            .enumerate()
            .map(|(i, pair)| (pair[1].0 - pair[0].1, i + 1))
            .collect();
        gaps.sort_unstable_by(|a, b| b.cmp(a));
        gaps.truncate(MOST_RANGES - 1);
        let mut starts: Vec<usize> = gaps.into_iter().map(|(_, at)| at).collect();
        starts.push(0);
        starts.sort_unstable();
        let ends = starts.iter().skip(1).copied().chain([ranges.len()]);
        starts
            .iter()
            .zip(ends)
            .map(|(start, end)| (ranges[*start].0, ranges[end - 1].1))
            .collect()
    }
}

fn days_to(day: Date) -> i64 {
    day.duration_since(EPOCH).as_hours() / 24
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Date32Array, TimestampMicrosecondArray};
    use proptest::prelude::*;

    use super::*;
    use crate::destination::Partitioning;
    use crate::schema::{Column, TableSchema, arrow_schema};

    fn spec(kind: ColumnType, unit: PartitionUnit) -> TableSpec {
        TableSpec {
            name: "t".into(),
            schema: TableSchema {
                columns: vec![Column::new("at", kind)],
            },
            partition: Some(Partitioning {
                column: "AT".into(),
                unit,
                fixed: false,
            }),
            ..TableSpec::default()
        }
    }

    fn batch(kind: ColumnType, values: &[Option<i64>]) -> RecordBatch {
        let schema = arrow_schema(&spec(kind, PartitionUnit::Day).schema);
        let column: ArrayRef = match kind {
            ColumnType::Date => Arc::new(
                values
                    .iter()
                    .map(|v| v.map(|v| i32::try_from(v).unwrap()))
                    .collect::<Date32Array>(),
            ),
            ColumnType::DateTime => Arc::new(values.iter().collect::<TimestampMicrosecondArray>()),
            _ => Arc::new(
                values
                    .iter()
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone("UTC"),
            ),
        };
        RecordBatch::try_new(schema, vec![column]).unwrap()
    }

    /// Whether a filter as it is sent lets a value through: its text is read, not the set behind it.
    fn passes(filter: &str, kind: ColumnType, value: Option<i64>) -> bool {
        let shown = value.map(|v| {
            let micros = match kind {
                ColumnType::Date => v * MICROS_PER_DAY,
                _ => v,
            };
            EPOCH.at(0, 0, 0, 0) + jiff::SignedDuration::from_micros(micros)
        });
        let inner = filter.strip_prefix('(').unwrap().strip_suffix(')').unwrap();
        inner.split(" OR ").any(|part| {
            part.trim_matches(['(', ')'])
                .split(" AND ")
                .all(|comparison| {
                    let words: Vec<&str> = comparison.splitn(3, ' ').collect();
                    assert_eq!(words[0], "o.`at`", "{filter}");
                    if words[1..] == ["IS", "NULL"] {
                        return shown.is_none();
                    }
                    let literal = words[2].split('\'').nth(1).unwrap().trim_end_matches("+00");
                    let literal: DateTime = match literal.parse::<DateTime>() {
                        Ok(at) => at,
                        Err(_) => literal.parse::<Date>().unwrap().at(0, 0, 0, 0),
                    };
                    shown.is_some_and(|shown| match words[1] {
                        ">=" => shown >= literal,
                        "<" => shown < literal,
                        other => panic!("{other} in {filter}"),
                    })
                })
        })
    }

    const UNITS: [PartitionUnit; 4] = [
        PartitionUnit::Hour,
        PartitionUnit::Day,
        PartitionUnit::Month,
        PartitionUnit::Year,
    ];

    proptest! {
        #[test]
        fn every_value_passes_its_filter(
            // Years 1 to 9999, most of them near the ends of what is partitioned.
            days in prop::collection::vec(
                prop_oneof![
                    -719_162_i64..=2_932_896,
                    -3_660_i64..-3_640,
                    69_390_i64..69_410,
                    0_i64..20_000,
                ],
                1..200,
            ),
            micros in 0..MICROS_PER_DAY,
            null in any::<bool>(),
            unit in prop::sample::select(UNITS.to_vec()),
            kind in prop::sample::select(vec![ColumnType::Timestamp, ColumnType::DateTime, ColumnType::Date]),
        ) {
            // Which BigQuery has not, and `spec` refuses.
            prop_assume!(kind != ColumnType::Date || unit != PartitionUnit::Hour);
            let mut values: Vec<Option<i64>> = days
                .iter()
                .map(|d| Some(if kind == ColumnType::Date { *d } else { d * MICROS_PER_DAY + micros }))
                .collect();
            if null {
                values.push(None);
            }
            let mut found = Partitions::of(&spec(kind, unit)).unwrap();
            found.add_batch(&batch(kind, &values)).unwrap();
            let filter = found.filter("o");
            for value in &values {
                prop_assert!(passes(&filter, kind, *value), "{value:?} in {filter}");
            }
            prop_assert!(found.ranges().len() <= MOST_RANGES);
            prop_assert_eq!(passes(&filter, kind, None), null);
        }
    }

    #[test]
    fn filters_are_literal_and_as_narrow_as_partitions() {
        let at = |text: &str| {
            let at: DateTime = text.parse().unwrap();
            Some(at.duration_since(EPOCH.at(0, 0, 0, 0)).as_micros() as i64)
        };
        let values = [
            at("2026-01-31T23:59:59.999999"),
            at("2026-02-01T00:00:00"),
            at("2026-03-01T12:30:00"),
        ];
        for (unit, want) in [
            (
                PartitionUnit::Hour,
                "((o.`at` >= TIMESTAMP '2026-01-31 23:00:00+00' AND o.`at` < TIMESTAMP '2026-02-01 01:00:00+00') \
                 OR (o.`at` >= TIMESTAMP '2026-03-01 12:00:00+00' AND o.`at` < TIMESTAMP '2026-03-01 13:00:00+00'))",
            ),
            (
                PartitionUnit::Day,
                "((o.`at` >= TIMESTAMP '2026-01-31 00:00:00+00' AND o.`at` < TIMESTAMP '2026-02-02 00:00:00+00') \
                 OR (o.`at` >= TIMESTAMP '2026-03-01 00:00:00+00' AND o.`at` < TIMESTAMP '2026-03-02 00:00:00+00'))",
            ),
            (
                PartitionUnit::Month,
                "(o.`at` >= TIMESTAMP '2026-01-01 00:00:00+00' AND o.`at` < TIMESTAMP '2026-04-01 00:00:00+00')",
            ),
            (
                PartitionUnit::Year,
                "(o.`at` >= TIMESTAMP '2026-01-01 00:00:00+00' AND o.`at` < TIMESTAMP '2027-01-01 00:00:00+00')",
            ),
        ] {
            let mut found = Partitions::of(&spec(ColumnType::Timestamp, unit)).unwrap();
            for value in values {
                found.add(value);
            }
            assert_eq!(found.filter("o"), want);
        }

        let mut dates = Partitions::of(&spec(ColumnType::Date, PartitionUnit::Day)).unwrap();
        assert_eq!(dates.filter("o"), "FALSE");
        for days in [Some(0), None, Some(-719_162), Some(2_932_896)] {
            dates.add(days);
        }
        assert_eq!(
            dates.filter("o"),
            "((o.`at` >= DATE '1970-01-01' AND o.`at` < DATE '1970-01-02') \
             OR (o.`at` < DATE '1960-01-01') OR (o.`at` >= DATE '2160-01-01') OR (o.`at` IS NULL))"
        );
    }

    #[test]
    fn more_partitions_than_a_job_may_touch_are_refused() {
        let mut found = Partitions::of(&spec(ColumnType::Date, PartitionUnit::Day)).unwrap();
        for day in 0..MOST_TOUCHED as i64 {
            found.add(Some(day));
        }
        found.check("t").unwrap();
        let full = found.clone();
        found.add(None);
        let error = found.check("t").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Schema);
        assert!(
            error.to_string().contains("`t` touches more than 4000"),
            "{error}"
        );
        // The set stays small whatever comes, and says so still.
        let mut many = full;
        for day in 0..50_000 {
            many.add(Some(day));
        }
        assert!(many.numbers.len() <= MOST_TOUCHED + 1);
        many.check("t").unwrap_err();
        // Months hold more.
        let mut months = Partitions::of(&spec(ColumnType::Date, PartitionUnit::Month)).unwrap();
        for day in 0..50_000 {
            months.add(Some(day));
        }
        months.check("t").unwrap();
    }
}
