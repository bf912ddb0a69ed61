//! A slice: staged in tables of its own, then published.

use arrow_array::RecordBatch;
use async_trait::async_trait;

use super::BigQuery;
use super::partitions::Partitions;
use super::stage::Stage;
use crate::destination::key::check_filled;
use crate::destination::{Absent, Base, BatchKind, Published, Slice, TableSpec, rejects};
use crate::error::{Error, ErrorKind, Result};
use crate::schema::Column;
use crate::state::CheckpointUpdate;

/// A slice being staged in BigQuery.
pub(super) struct BigQuerySlice {
    pub(super) destination: BigQuery,
    pub(super) spec: TableSpec,
    pub(super) run_id: String,
    pub(super) name: String,
    pub(super) rows: Stage,
    pub(super) rejects: Stage,
    /// The partitions that the staged rows go to, where the table has any.
    pub(super) partitions: Option<Partitions>,
    /// Rows that BigQuery refused; they are among the rejects.
    pub(super) refused: u64,
    /// Staged rows that the table would refuse; the publish adds them to the rejects.
    pub(super) unfit: u64,
    /// The table's columns as they are, once all is staged.
    pub(super) there: Vec<Column>,
}

impl BigQuerySlice {
    pub(super) fn new(destination: BigQuery, spec: TableSpec, run_id: &str, name: &str) -> Self {
        Self {
            rows: Stage::new(
                &spec.name,
                spec.schema.clone(),
                spec.write_method,
                run_id,
                name,
            ),
            // By the same method: tables that are loaded need no Storage Write API at all.
            rejects: Stage::new(
                &rejects::table_name(&spec.name),
                rejects::schema(),
                spec.write_method,
                run_id,
                name,
            ),
            partitions: Partitions::of(&spec),
            destination,
            spec,
            run_id: run_id.to_owned(),
            name: name.to_owned(),
            refused: 0,
            unfit: 0,
            there: Vec::new(),
        }
    }

    /// Staged rows that the table takes.
    pub(super) fn fit(&self) -> u64 {
        self.rows.staged().saturating_sub(self.unfit)
    }

    /// Stages the rows that BigQuery has refused as rejects.
    async fn set_refused_aside(&mut self) -> Result<()> {
        let now = self.destination.api().google().clock().now();
        for refused in self.rows.take_refused() {
            let batch = rejects::of_rows(
                &refused.rows,
                &refused.reasons,
                &self.spec.stream,
                &self.run_id,
                now,
            )?;
            self.refused += batch.num_rows() as u64;
            self.rejects.take(&self.destination, batch).await?;
        }
        Ok(())
    }

    /// Everything staged is readable, or set aside.
    async fn commit(&mut self, update: &CheckpointUpdate) -> Result<()> {
        self.rows.commit(&self.destination).await?;
        self.set_refused_aside().await?;
        self.rejects.commit(&self.destination).await?;
        let full = format!("{}.{}", self.destination.api().target(), self.spec.name);
        // There is no place for what not even this table takes.
        let refused: usize = self
            .rejects
            .take_refused()
            .iter()
            .map(|r| r.rows.num_rows())
            .sum();
        if refused > 0 {
            return Err(Error::destination(format!(
                "BigQuery refused {refused} rejects of `{full}`, so they cannot be kept"
            )));
        }
        self.there = self.columns_there().await?;
        self.unfit = self.count_unfit(update).await?;
        self.refused += self.unfit;
        Ok(())
    }
}

#[async_trait]
impl Slice for BigQuerySlice {
    fn builds_on(&mut self, base: &Base) {
        self.rows.is_for(&base.key);
        self.rejects.is_for(&base.key);
    }

    async fn stage(&mut self, kind: BatchKind, batch: RecordBatch) -> Result<()> {
        match kind {
            BatchKind::Rows => {
                check_filled(&self.spec, &batch)?;
                if let Some(partitions) = &mut self.partitions {
                    partitions.add_batch(&batch)?;
                    partitions.check(&self.spec.name)?;
                }
                self.rows.take(&self.destination, batch).await?;
                self.set_refused_aside().await
            }
            BatchKind::Rejects => self.rejects.take(&self.destination, batch).await,
        }
    }

    async fn publish(mut self: Box<Self>, checkpoint: &CheckpointUpdate) -> Result<Published> {
        if let Err(error) = self.commit(checkpoint).await {
            self.abandon().await?;
            return Err(error);
        }
        let published = self.publish_staged(checkpoint).await;
        // After an unclear failure the job may still be running: its staging must stay for it.
        let settled = match &published {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::State,
        };
        if settled {
            self.rows.drop_table(&self.destination).await;
            self.rejects.drop_table(&self.destination).await;
        }
        published.map(|p| Published {
            rejected: self.refused,
            ..p
        })
    }

    async fn keep_absent(&mut self) -> Result<()> {
        self.spec.absent = Absent::Keep;
        Ok(())
    }

    async fn abandon(self: Box<Self>) -> Result<()> {
        self.rows.drop_table(&self.destination).await;
        self.rejects.drop_table(&self.destination).await;
        Ok(())
    }
}
