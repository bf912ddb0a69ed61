//! Looking without storing: samples of pages, previews, schemas, and the checks before a first run.

use std::sync::Arc;

use arrow_array::RecordBatch;
use jiter::{Jiter, JiterError, Peek};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use super::App;
use super::open::{Call, OpenSource};
use super::places::{self, Place};
use crate::connector::Stream;
use crate::connector::template::Scope;
use crate::error::{Error, ErrorKind, Result};
use crate::pipeline::check::{CheckItem, CheckOutcome, CheckReport};
use crate::pipeline::contract;
use crate::pipeline::partitions::{self, Found};
use crate::pipeline::plan::Bounds;
use crate::pipeline::table;
use crate::schema::decode::Decoder;
use crate::schema::grow::News;
use crate::schema::infer::Inference;
use crate::schema::landing::column;
use crate::schema::{ColumnType, TableSchema};
use crate::settings::BigQueryOptions;
use crate::source::pages::Pages;
use crate::source::records::{Layout, RecordSink, Walked};
use crate::telemetry::Meter;

/// Parents that are tried when a sample of their children is wanted and the first have none.
const MOST_PARENTS: usize = 20;

/// The first rows of a stream.
pub struct Preview {
    /// Names of the columns, in order.
    pub columns: Vec<String>,
    /// The rows.
    pub batches: Vec<RecordBatch>,
    /// Why and where the records on the way did not fit, when some did not.
    pub rejects: Vec<(String, String)>,
}

struct InferSink(Inference);

impl RecordSink for InferSink {
    fn record(&mut self, json: &mut Jiter<'_>, peek: Peek) -> Result<(), JiterError> {
        self.0.record(json, peek)
    }

    fn broken(&mut self, _: String, _: &str) {
        self.0.unreadable();
    }
}

impl OpenSource {
    /// What the first records of a stream look like: of up to `pages` pages, until there are
    /// `records` of them.
    pub(super) async fn sample(
        &self,
        stream: &Stream,
        call: &Call,
        pages: u64,
        records: u64,
    ) -> Result<Inference> {
        let mut sink = InferSink(Inference::default());
        self.look(stream, call, pages, |layout, _, body| {
            let walked = layout.walk(body, &mut sink)?;
            Ok((sink.0.records() >= records, walked))
        })
        .await?;
        if sink.0.records() == 0 && sink.0.others() > 0 {
            return Err(Error::new(
                ErrorKind::Decode,
                format!(
                    "no columns can be inferred for stream `{}`: none of its first {} records is a JSON object that can be read",
                    stream.name,
                    sink.0.others()
                ),
            )
            .hint("check `records`, or declare the stream's schema: records that cannot be read are then kept as rejects"));
        }
        Ok(sink.0)
    }

    /// What the first records of a stream hold that a table of these columns does not: of up to `pages`
    /// pages, until there were `records` of them.
    pub(super) async fn news(
        &self,
        stream: &Stream,
        call: &Call,
        table: &TableSchema,
        pages: u64,
        records: u64,
    ) -> Result<News> {
        let mut decoder = Decoder::new(table);
        decoder.go_by(contract::spoken(stream));
        decoder.watch();
        for own in table.columns.iter().filter(|c| column::is_own(&c.name)) {
            let text = match own.kind {
                ColumnType::Timestamp => "1970-01-01",
                _ => "",
            };
            decoder.set_constant(&own.name, text)?;
        }
        self.look(stream, call, pages, |layout, scope, body| {
            for (name, template) in &stream.add_columns {
                decoder.set_constant(name, &template.render(scope)?)?;
            }
            let walked = layout.walk(body, &mut decoder)?;
            decoder.take_rejects();
            Ok((decoder.position() as u64 >= records, walked))
        })
        .await?;
        Ok(decoder.news())
    }

    /// Shows up to `most` pages of a stream, over as many partitions as it takes, to `see`, until
    /// that has seen enough.
    async fn look(
        &self,
        stream: &Stream,
        call: &Call,
        most: u64,
        mut see: impl FnMut(&Layout, &Scope, &[u8]) -> Result<(bool, Walked)>,
    ) -> Result<()> {
        let endpoint = self.endpoint(stream, call)?;
        let parents = self.parents(stream, call)?;
        let layout = endpoint.layout();
        let mut seen = 0;
        let mut scope = endpoint.scope.clone();
        if let Some(incremental) = &stream.incremental {
            (scope.since, scope.until) = Bounds::open().texts(&incremental.format);
        }
        let (found, mut inbox) = mpsc::channel(MOST_PARENTS);
        let _lister = (!parents.is_empty()).then(|| {
            let child = stream.clone();
            AbortOnDropHandle::new(tokio::spawn(
                async move {
                    partitions::list(parents, child, Bounds::open(), found).await;
                }
                .in_current_span(),
            ))
        });
        for _ in 0..MOST_PARENTS {
            if stream.parent.is_some() {
                match inbox.recv().await.transpose()? {
                    Some(Found::Partition(partition)) => scope.parent = Some(partition.fields),
                    // A look need not see all.
                    Some(Found::Incomplete { .. }) => continue,
                    None => return Ok(()),
                }
            }
            let mut pages = Pages::new(&endpoint, scope.clone());
            while let Some(page) = pages.next().await? {
                seen += 1;
                let (enough, walked) = see(&layout, &scope, &page.body)?;
                if enough || seen >= most {
                    return Ok(());
                }
                pages.turn(&page, &walked)?;
            }
            if stream.parent.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl App {
    fn call(&self) -> Call {
        Call {
            deadline: None,
            cancel: CancellationToken::new(),
            meter: Arc::new(Meter::default()),
        }
    }

    /// The first `limit` rows of a stream.
    ///
    /// # Errors
    /// Settings, secrets, the API's answers.
    pub async fn preview(&self, source: &str, stream: &str, limit: u64) -> Result<Preview> {
        let source = self.open(source).await?;
        let stream = source.stream(stream)?;
        let call = self.call();
        let columns = match &stream.schema {
            Some(schema) => schema.clone(),
            None => {
                let sample = source.sample(stream, &call, 5, 1_000).await?;
                if sample.records() == 0 {
                    source.settle().await?;
                    return Ok(Preview {
                        columns: Vec::new(),
                        batches: Vec::new(),
                        rejects: Vec::new(),
                    });
                }
                sample.schema(&contract::spoken(stream))
            }
        };
        let spec = table::spec(stream, columns)?;
        let mut decoder = Decoder::new(&spec.schema);
        decoder.go_by(contract::spoken(stream));
        let stamped = !stream.table.bare;
        if stamped {
            decoder.set_constant(table::RUN_ID, "preview")?;
        }
        let mut rejects = Vec::new();
        source
            .look(stream, &call, u64::MAX, |layout, scope, body| {
                if stamped {
                    decoder.set_constant(table::EXTRACTED_AT, &self.clock.now().to_string())?;
                }
                for (name, template) in &stream.add_columns {
                    decoder.set_constant(name, &template.render(scope)?)?;
                }
                let walked = layout.walk(body, &mut decoder)?;
                rejects.extend(
                    decoder
                        .take_rejects()
                        .into_iter()
                        .map(|r| (r.reason, r.path)),
                );
                Ok((decoder.len() as u64 >= limit, walked))
            })
            .await?;
        source.settle().await?;
        let own = |name: &str| name == table::EXTRACTED_AT || name == table::RUN_ID;
        let batch = decoder.take()?;
        let shown: Vec<usize> = (0..spec.schema.columns.len())
            .filter(|i| !own(&spec.schema.columns[*i].name))
            .collect();
        let batches = match batch {
            None => Vec::new(),
            Some(batch) => {
                let rows = usize::try_from(limit)
                    .unwrap_or(usize::MAX)
                    .min(batch.num_rows());
                let batch = batch
                    .slice(0, rows)
                    .project(&shown)
                    .map_err(|e| Error::new(ErrorKind::Bug, "could not cut a batch").source(e))?;
                vec![batch]
            }
        };
        Ok(Preview {
            columns: shown
                .iter()
                .map(|i| spec.schema.columns[*i].name.clone())
                .collect(),
            batches,
            rejects,
        })
    }

    /// The schema of a stream's table: the declared one, or what `pages` real pages show.
    ///
    /// # Errors
    /// Settings, secrets, the API's answers; a stream without a schema when none is to be inferred.
    pub async fn schema(
        &self,
        source: &str,
        stream: &str,
        infer: Option<u64>,
    ) -> Result<TableSchema> {
        let Some(pages) = infer else {
            let config = self.settings.source(source)?;
            let found = config.connector.stream(stream).cloned();
            let Some(found) = found else {
                // The same words as a run has for it.
                return Err(match self.open(source).await?.stream(stream) {
                    Err(e) => e,
                    Ok(_) => Error::new(ErrorKind::Bug, format!("stream `{stream}` came and went")),
                });
            };
            return found.schema.ok_or_else(|| {
                Error::config(format!(
                    "stream `{stream}` of source `{source}` declares no schema"
                ))
                .hint("add `--infer` to read real pages and infer it from them")
            });
        };
        let source = self.open(source).await?;
        let found = source.stream(stream)?;
        let sample = source.sample(found, &self.call(), pages, u64::MAX).await?;
        source.settle().await?;
        let mut schema = sample.schema(&contract::spoken(found));
        schema
            .columns
            .retain(|c| c.name != crate::schema::decode::EXTRA_COLUMN);
        for column in &mut schema.columns {
            if found
                .primary_key
                .iter()
                .any(|k| k.eq_ignore_ascii_case(&column.name))
            {
                column.mode = crate::schema::Mode::Required;
            }
        }
        Ok(schema)
    }

    /// Tries what a run would need: secrets, a page of each stream, the destination's permissions.
    ///
    /// # Errors
    /// Only what keeps it from trying anything: a source or a stream that is not there.
    pub async fn check(&self, source: &str, streams: &[String]) -> Result<CheckReport> {
        let config = self.settings.source(source)?;
        let place = config
            .destination
            .clone()
            .unwrap_or_else(|| places::DEFAULT.to_owned());
        let bigquery = config.bigquery.clone();
        let mut report = CheckReport::default();
        let secrets = config.secrets.len();
        match OpenSource::open(config, self, None).await {
            Err(error) => report.add("secrets and settings", CheckOutcome::Failed(error)),
            Ok(source) => {
                report.add(
                    "secrets and settings",
                    CheckOutcome::Passed(format!("{secrets} secrets found")),
                );
                self.check_streams(&source, streams, &mut report).await?;
                if let Err(error) = source.settle().await {
                    report.add("refresh token", CheckOutcome::Failed(error));
                }
            }
        }
        self.check_destination(&place, &bigquery, &mut report).await;
        Ok(report)
    }

    async fn check_streams(
        &self,
        source: &OpenSource,
        names: &[String],
        report: &mut CheckReport,
    ) -> Result<()> {
        for name in names {
            source.stream(name)?;
        }
        let mut failed: Vec<&str> = Vec::new();
        for stream in &source.connector.streams {
            if !names.is_empty() && !names.contains(&stream.name) {
                continue;
            }
            let what = format!("stream `{}`", stream.name);
            if let Some(parent) = stream
                .parent
                .as_ref()
                .filter(|p| failed.contains(&p.stream.as_str()))
            {
                failed.push(&stream.name);
                report.add(
                    &what,
                    CheckOutcome::Skipped(format!("its parent `{}` failed", parent.stream)),
                );
                continue;
            }
            match self.check_stream(source, stream).await {
                Ok(text) => report.add(&what, CheckOutcome::Passed(text)),
                Err(error) => {
                    failed.push(&stream.name);
                    report.add(&what, CheckOutcome::Failed(error));
                }
            }
        }
        Ok(())
    }

    /// One page of a stream, decoded; what was seen.
    async fn check_stream(&self, source: &OpenSource, stream: &Stream) -> Result<String> {
        let call = self.call();
        let columns = match &stream.schema {
            Some(schema) => schema.clone(),
            None => {
                let sample = source.sample(stream, &call, 1, u64::MAX).await?;
                if sample.records() == 0 {
                    return Ok("0 records in the first page".to_owned());
                }
                sample.schema(&contract::spoken(stream))
            }
        };
        let spec = table::spec(stream, columns)?;
        let mut decoder = Decoder::new(&spec.schema);
        decoder.go_by(contract::spoken(stream));
        if !stream.table.bare {
            decoder.set_constant(table::RUN_ID, "check")?;
            decoder.set_constant(table::EXTRACTED_AT, &self.clock.now().to_string())?;
        }
        let mut records = 0;
        source
            .look(stream, &call, 1, |layout, scope, body| {
                for (name, template) in &stream.add_columns {
                    decoder.set_constant(name, &template.render(scope)?)?;
                }
                let walked = layout.walk(body, &mut decoder)?;
                records = walked.records;
                Ok((true, walked))
            })
            .await?;
        let rejects = decoder.take_rejects();
        match rejects.first() {
            None if records == 1 => Ok("1 record in the first page".to_owned()),
            None => Ok(format!("{records} records in the first page")),
            Some(first) => Err(Error::new(
                ErrorKind::Schema,
                format!(
                    "{} of the {records} records in the first page of stream `{}` do not fit its schema; the first at `{}`: {}",
                    rejects.len(),
                    stream.name,
                    first.path,
                    first.reason
                ),
            )
            .hint(format!("compare with `drawoff schema --source {} --stream {} --infer`", source.name, stream.name))),
        }
    }

    async fn check_destination(
        &self,
        text: &str,
        bigquery: &BigQueryOptions,
        report: &mut CheckReport,
    ) {
        let what = format!("destination `{text}`");
        if Place::is_new(text) {
            // Opening it would make it.
            report.add(
                &what,
                CheckOutcome::Passed("does not exist yet; the first run makes it".to_owned()),
            );
            return;
        }
        match Place::open(text, &self.google, bigquery) {
            Err(error) => report.add(&what, CheckOutcome::Failed(error)),
            Ok(Place::BigQuery(bigquery)) => {
                for step in bigquery.check().await {
                    let outcome = match step.result {
                        Ok(text) => CheckOutcome::Passed(text),
                        Err(error) => CheckOutcome::Failed(error),
                    };
                    report.add(&format!("{what}, {}", step.what), outcome);
                }
            }
            Ok(place) => {
                let outcome = match place.destination().checkpoints("check").await {
                    Ok(_) => CheckOutcome::Passed("can be opened".to_owned()),
                    Err(error) => CheckOutcome::Failed(error),
                };
                report.add(&what, outcome);
            }
        }
    }
}

impl CheckReport {
    fn add(&mut self, what: &str, outcome: CheckOutcome) {
        self.items.push(CheckItem {
            what: what.to_owned(),
            outcome,
        });
    }
}
