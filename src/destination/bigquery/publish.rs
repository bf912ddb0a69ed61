//! Making a slice visible: one transaction, recognised again when its answer was lost.

use super::api::{Api, Ended, Query, Row};
use super::partitions::Partitions;
use super::slice::BigQuerySlice;
use super::stage::Stage;
use super::{BigQuery, CHECKPOINTS, LEASES, checkpoint, shape, spec, sql, unique_mark};
use crate::destination::audit::{self, LOADS};
use crate::destination::{
    Absent, Disposition, Published, TableSpec, lease_lost, rejects, version_conflict,
};
use crate::error::{Error, Result};
use crate::google::Failure;
use crate::schema::Column;
use crate::state::CheckpointUpdate;

impl BigQuerySlice {
    /// Publishes what is staged, once.
    pub(super) async fn publish_staged(&self, update: &CheckpointUpdate) -> Result<Published> {
        let destination = &self.destination;
        let api = destination.api();
        destination.ensure_own_tables().await?;
        let checkpoints = destination.quoted(CHECKPOINTS);
        let key = |more: Vec<(&'static str, &'static str, String)>| {
            let mut all = vec![
                ("source", "STRING", update.key.source.clone()),
                ("stream", "STRING", update.key.stream.clone()),
            ];
            all.extend(more);
            all
        };
        let labels = |what: &'static str| {
            vec![
                ("drawoff", what),
                ("drawoff_source", update.key.source.as_str()),
                ("drawoff_stream", update.key.stream.as_str()),
                ("drawoff_run", update.run_id.as_str()),
            ]
        };
        let state = checkpoint::to_text(&update.checkpoint)?;
        let what = format!(
            "publish slice `{}` of `{}.{}`",
            self.name,
            api.target(),
            self.spec.name
        );
        let staged = self.staging_of(&self.rows);
        let mut spec = self.spec.clone();
        if spec.disposition == Disposition::Replace
            && !spec.is_cleared_by(self.fit(), self.rejects.staged() + self.unfit)
        {
            // No rows to add, and none to remove.
            spec.disposition = Disposition::Append;
        }
        let closes = self.spec.absent == Absent::Close
            && self.spec.disposition.is_keyed()
            && self.rejects.staged() + self.unfit == 0;
        let (among, closed) = self
            .touched(&what, staged.as_deref(), closes, labels("positions"))
            .await?;
        let publish = Query {
            what: what.clone(),
            sql: sql::publish(&sql::Publish {
                spec: &spec,
                target: destination.quoted(&self.spec.name),
                there: &self.there,
                staged,
                rejects: self.staging_of(&self.rejects).map(|staged| {
                    (
                        destination.quoted(&rejects::table_name(&self.spec.name)),
                        staged,
                    )
                }),
                unfit: (self.unfit > 0)
                    .then(|| destination.quoted(&rejects::table_name(&self.spec.name))),
                checkpoints: checkpoints.clone(),
                among,
                closes,
                closed,
                leases: destination.quoted(LEASES),
                loads: (destination.quoted(LOADS), audit::LOAD_PARAMETERS.to_vec()),
            }),
            parameters: key(vec![
                ("lease", "STRING", update.lease.clone()),
                (
                    "expected_version",
                    "INT64",
                    update.expected_version.to_string(),
                ),
                ("state", "STRING", state),
                ("staged", "INT64", self.fit().to_string()),
                (
                    "rejected",
                    "INT64",
                    (self.rejects.staged() + self.unfit).to_string(),
                ),
            ])
            .into_iter()
            .chain(
                (self.unfit > 0).then(|| (sql::unfit::STREAM, "STRING", self.spec.stream.clone())),
            )
            .chain(load_parameters(&self.spec, &self.name, update))
            .collect(),
            transaction: true,
            names_job: true,
            labels: labels("publish"),
            mark: format!("{}/{}", self.run_id, self.name),
        };
        destination
            .conclude(
                &publish,
                update,
                &self.name,
                |rows| self.answer(rows),
                unread,
            )
            .await
    }
}

impl BigQuery {
    /// Runs a script that publishes a slice until it is known how it ended. `answer` reads what it has
    /// published from its last rows, `refused` says why one has changed nothing.
    pub(super) async fn conclude(
        &self,
        publish: &Query<'_>,
        update: &CheckpointUpdate,
        slice: &str,
        answer: impl Fn(&[Row]) -> Option<Published>,
        refused: impl Fn(&Query<'_>, &Row) -> Error,
    ) -> Result<Published> {
        let api = self.api();
        let checkpoints = self.quoted(CHECKPOINTS);
        let key = vec![
            ("source", "STRING", update.key.source.clone()),
            ("stream", "STRING", update.key.stream.clone()),
        ];
        let labels = vec![
            ("drawoff", "checkpoints"),
            ("drawoff_source", update.key.source.as_str()),
            ("drawoff_stream", update.key.stream.as_str()),
            ("drawoff_run", update.run_id.as_str()),
        ];
        let what = &publish.what;
        let last = Query {
            what: format!(
                "read the checkpoint of `{}`/`{}` in `{}`",
                update.key.source,
                update.key.stream,
                api.target()
            ),
            sql: sql::last_publish(&checkpoints),
            parameters: key.clone(),
            labels: labels.clone(),
            transaction: false,
            names_job: false,
            mark: String::new(),
        };
        if update.expected_version == 0 {
            api.query(&Query {
                what: format!("prepare to {what}"),
                sql: sql::seed(&checkpoints),
                parameters: key,
                labels,
                transaction: true,
                names_job: false,
                mark: unique_mark(),
            })
            .await?;
        }
        let mut attempt = 0;
        loop {
            let ended = {
                let _one_at_a_time = self.0.publishing.lock().await;
                api.run(publish, attempt).await
            };
            attempt += 1;
            let problem = match ended {
                Ok(Ended::Well(rows)) => match answer(&rows) {
                    Some(published) => {
                        self.count(&rows, update);
                        return Ok(published);
                    }
                    None => Problem::Refused(rows.into_iter().next().unwrap_or_default()),
                },
                Ok(Ended::Failed(failure)) => Problem::Failed(failure),
                Err(error) => Problem::Lost(error),
            };
            // Whatever was answered, what is stored decides: a job may fail after its commit, and an
            // answer may be lost on the way.
            let stored = match api
                .query(&Query {
                    mark: unique_mark(),
                    what: last.what.clone(),
                    sql: last.sql.clone(),
                    parameters: last.parameters.clone(),
                    labels: last.labels.clone(),
                    transaction: false,
                    names_job: false,
                })
                .await
            {
                Ok(rows) => Stored::of(rows.first()),
                // The first problem says more.
                Err(_) if matches!(problem, Problem::Lost(_)) => {
                    return Err(problem.into_error(api, publish, refused).await);
                }
                Err(error) => return Err(error),
            };
            if stored.version == update.expected_version + 1
                && stored.run_id == update.run_id
                && stored.slice == slice
            {
                return Ok(stored.published);
            }
            let place = format!("bigquery:{}", api.target());
            if stored.version != update.expected_version {
                return Err(version_conflict(update, stored.version, &place));
            }
            if let Problem::Refused(row) = &problem
                && let Some(by) = row.get(sql::answer::HOLDER).and_then(Option::as_deref)
            {
                return Err(lease_lost(update, by, &place));
            }
            let delay = match &problem {
                Problem::Failed(failure) => publish.again(failure, attempt),
                Problem::Refused(_) | Problem::Lost(_) => None,
            };
            let Some(delay) = delay else {
                return Err(problem.into_error(api, publish, refused).await);
            };
            tracing::debug!(attempt, what, "a publish was rolled back and is repeated");
            api.sleep(delay).await;
        }
    }

    /// Notes how often the table was published in a day.
    fn count(&self, rows: &[Row], update: &CheckpointUpdate) {
        let publishes = rows
            .first()
            .and_then(|row| row.get(sql::answer::PUBLISHES)?.as_deref()?.parse().ok())
            .unwrap_or(0);
        self.api()
            .spent(&update.key.stream, |s| s.publishes_in_a_day = publishes);
    }
}

impl BigQuerySlice {
    /// The partitions of the rows with staged keys, and of those to be closed; none for a table without
    /// partitions. What is found holds as long as the checkpoint's version does, which the publish
    /// checks.
    async fn touched(
        &self,
        what: &str,
        staged: Option<&str>,
        closes: bool,
        labels: Vec<(&str, &str)>,
    ) -> Result<(Option<Partitions>, Option<Partitions>)> {
        let Some(new) = &self.partitions else {
            return Ok((None, None));
        };
        let spec = &self.spec;
        let target = self.destination.quoted(&spec.name);
        let Some(empty) = Partitions::of(spec) else {
            return Ok((None, None));
        };
        let find = async |sql: String| {
            let mut found = empty.clone();
            let query = Query {
                what: format!("find the partitions in which to {what}"),
                sql,
                parameters: Vec::new(),
                labels: labels.clone(),
                transaction: false,
                names_job: false,
                mark: unique_mark(),
            };
            for row in self.destination.api().query(&query).await? {
                let start = row.get(sql::positions::START).and_then(Option::as_deref);
                let number = start.map(str::parse).transpose().map_err(|e| {
                    Error::destination(format!(
                        "could not {}: a partition in the answer is no number",
                        query.what
                    ))
                    .source(e)
                })?;
                found.add(number);
            }
            Ok::<_, Error>(found)
        };
        let (mut among, mut closed) = (new.clone(), empty.clone());
        if let (true, Some(staged)) = (spec.disposition.is_keyed(), staged)
            && !spec::stays_in_its_partition(spec)
        {
            let old = find(sql::positions::matched(spec, &empty, &target, staged)).await?;
            if spec.disposition == Disposition::Scd2 {
                // A version never moves, and a new one is not looked for.
                among = old;
            } else {
                among.extend(&old);
            }
        }
        if closes {
            closed = find(sql::positions::unlisted(spec, &empty, &target, staged)).await?;
        }
        let mut all = new.clone();
        all.extend(&among);
        all.extend(&closed);
        all.check(&spec.name)?;
        Ok((Some(among), Some(closed)))
    }

    /// The table's columns as they are now: prepared, or changed by somebody since.
    pub(super) async fn columns_there(&self) -> Result<Vec<Column>> {
        let name = &self.spec.name;
        let resource = self.destination.api().table(name).await?;
        let resource = resource.unwrap_or_default();
        shape::wanted(name, &resource, &self.spec.schema.columns)
    }

    /// How many of the staged rows the table would refuse.
    pub(super) async fn count_unfit(&self, update: &CheckpointUpdate) -> Result<u64> {
        let Some(staged) = self.staging_of(&self.rows) else {
            return Ok(0);
        };
        let Some(sql) = sql::unfit::count(&self.spec.schema, &self.there, &staged) else {
            return Ok(0);
        };
        let query = Query {
            what: format!(
                "look for rows that do not fit `{}.{}`",
                self.destination.api().target(),
                self.spec.name
            ),
            sql,
            parameters: Vec::new(),
            labels: vec![
                ("drawoff", "unfit"),
                ("drawoff_source", update.key.source.as_str()),
                ("drawoff_stream", update.key.stream.as_str()),
                ("drawoff_run", update.run_id.as_str()),
            ],
            transaction: false,
            names_job: false,
            mark: unique_mark(),
        };
        let rows = self.destination.api().query(&query).await?;
        rows.first()
            .and_then(|row| row.get(sql::unfit::COUNT)?.as_deref()?.parse().ok())
            .ok_or_else(|| {
                Error::destination(format!("could not {}: the answer is no number", query.what))
            })
    }

    fn staging_of(&self, stage: &Stage) -> Option<String> {
        (stage.staged() > 0).then(|| self.destination.quoted(&stage.table))
    }

    /// What a script that went through has published.
    fn answer(&self, rows: &[Row]) -> Option<Published> {
        let row = rows.first()?;
        let text = |name: &str| row.get(name).and_then(Option::as_deref);
        if text(sql::answer::OUTCOME) != Some("published") {
            return None;
        }
        let kept: u64 = text(sql::answer::KEPT)?.parse().ok()?;
        Some(Published {
            rows: kept,
            deduplicated: self.fit().saturating_sub(kept),
            ..Published::default()
        })
    }
}

/// The parameters of a slice's row in the table of loads that are not the publish's own.
pub(super) fn load_parameters(
    spec: &TableSpec,
    slice: &str,
    update: &CheckpointUpdate,
) -> impl Iterator<Item = (&'static str, &'static str, String)> {
    audit::load_cells(spec, slice, update)
        .into_iter()
        .filter(|(name, _)| !matches!(*name, "source" | "stream" | "version"))
        .map(|(name, cell)| {
            let (kind, value) = sql::parameter(&cell);
            (name, kind, value)
        })
}

/// Why a publish is not known to have gone through.
enum Problem {
    /// The script found something that must not be, and changed nothing.
    Refused(Row),
    /// The job failed.
    Failed(Failure),
    /// The job could not be started or followed.
    Lost(Error),
}

impl Problem {
    async fn into_error(
        self,
        api: &Api,
        query: &Query<'_>,
        refused: impl Fn(&Query<'_>, &Row) -> Error,
    ) -> Error {
        match self {
            Self::Lost(error) => error,
            Self::Failed(failure) => api.failed(failure).await,
            Self::Refused(row) => refused(query, &row),
        }
    }
}

/// The error of a script that has not found staged what was sent.
fn unread(query: &Query<'_>, row: &Row) -> Error {
    let shown = |name: &str| {
        row.get(name)
            .and_then(Option::as_deref)
            .unwrap_or("an unknown number")
            .to_owned()
    };
    let sent = |name: &str| {
        let parameter = query.parameters.iter().find(|(n, ..)| *n == name);
        parameter.map_or("an unknown number", |(_, _, value)| value.as_str())
    };
    Error::destination(format!(
        "could not {}: {} rows and {} rejects are readable in the staging tables, and {} and {} were sent; nothing was changed",
        query.what,
        shown(sql::answer::STAGED),
        shown(sql::answer::REJECTED),
        sent(sql::answer::STAGED),
        sent(sql::answer::REJECTED)
    ))
    .transient(true)
    .hint("run again")
}

/// The checkpoint as stored now.
struct Stored {
    version: u64,
    run_id: String,
    slice: String,
    published: Published,
}

impl Stored {
    fn of(row: Option<&Row>) -> Self {
        let text = |name: &str| {
            row.and_then(|r| r.get(name))
                .and_then(Option::as_deref)
                .unwrap_or_default()
        };
        let number = |name: &str| text(name).parse().unwrap_or(0);
        Self {
            version: number("version"),
            run_id: text("run_id").to_owned(),
            slice: text("slice").to_owned(),
            published: Published {
                rows: number("published"),
                deduplicated: number("deduplicated"),
                ..Published::default()
            },
        }
    }
}
