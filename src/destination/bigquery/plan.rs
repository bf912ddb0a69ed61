//! What a run would do, found out by reading alone: GET requests and nothing else.

use super::partitions::Partitions;
use super::state::own_tables;
use super::{BigQuery, CHECKPOINTS, LEASES, OPEN_SLICES, shape, spec, sql};
use crate::destination::audit::{self, LOADS, RUNS};
use crate::destination::{Absent, Plan, TableSpec, WriteMethod, rejects};
use crate::error::Result;
use crate::schema::Column;

impl BigQuery {
    pub(super) async fn plan_table(&self, table: &TableSpec) -> Result<Plan> {
        spec::check(table)?;
        let api = self.api();
        let target = api.target();
        let (mut shared, mut changes) = (Vec::new(), Vec::new());
        let there = api.dataset().await?.is_some();
        if !there {
            shared.push(format!(
                "create dataset `{target}` in `{}`",
                api.new_location()
            ));
        }
        let journal = table.write_method.is_direct().then_some(OPEN_SLICES);
        let own = own_tables().map(|(name, _, _)| name).into_iter();
        for name in own.chain([RUNS]).chain(journal) {
            if !there || api.table(name).await?.is_none() {
                shared.push(format!("create table `{name}`, which is drawoff's own"));
            }
        }
        let resource = match there {
            true => api.table(&table.name).await?,
            false => None,
        };
        let mut there = Vec::new();
        match &resource {
            None => changes.extend(Plan::of_new(table)),
            Some(resource) => {
                let patch = self.patch(&table.name, resource, &Self::resource_of(table))?;
                let wanted = shape::described(&table.schema.columns);
                let fields = resource["schema"]["fields"].as_array();
                let evolved =
                    shape::evolve(&table.name, fields.map_or(&[], Vec::as_slice), &wanted)?;
                let columns = Plan::of_table(
                    &table.name,
                    Some(&evolved.before),
                    &table.schema,
                    table.frozen,
                )?;
                for (key, what) in [("description", "description"), ("clustering", "clustering")] {
                    if !patch[key].is_null() {
                        changes.push(format!("change the {what} of table `{}`", table.name));
                    }
                }
                if columns.is_empty() && evolved.fields.is_some() {
                    changes.push(format!(
                        "change descriptions or fields of columns of table `{}`",
                        table.name
                    ));
                }
                changes.extend(columns);
                let rejected = rejects::table_name(&table.name);
                if api.table(&rejected).await?.is_none() {
                    changes.extend(Plan::of_table(&rejected, None, &rejects::schema(), false)?);
                }
                there = evolved.schema.columns;
            }
        }
        let (mut steps, sql) = match table.write_method.is_direct() {
            true => self.plan_direct(table),
            false => self.plan_staged(table, there),
        };
        steps.push(format!(
            "publish into `{target}.{}` ({}): one query job a slice in project `{}`, billed for the bytes it reads{}",
            table.name,
            audit::disposition(table.disposition),
            api.job_project(),
            match api.maximum_bytes_billed() {
                Some(most) => format!(", refused above {most}"),
                None => String::new(),
            }
        ));
        Ok(Plan {
            shared,
            changes,
            steps,
            sql: Some(sql),
        })
    }

    /// How rows come in through a staging table, and the script that publishes them.
    fn plan_staged(&self, table: &TableSpec, there: Vec<Column>) -> (Vec<String>, String) {
        let staged = self.quoted("_drawoff_stage_…");
        let mut steps = vec![match table.write_method {
            WriteMethod::LoadJob => format!("load rows into {staged}: load jobs, free"),
            _ => format!(
                "write rows into {staged} with the Storage Write API, at most {} a request: no job",
                mebibytes(self.0.limits.request)
            ),
        }];
        let partitions = Partitions::of(table);
        if table.disposition.is_keyed()
            && let Some(partitions) = &partitions
        {
            steps.push(format!(
                "find the partitions of {} in which rows change: a query job a slice, billed for the columns of the key and `{}`, unless the staged rows themselves tell",
                self.quoted(&table.name),
                partitions.column()
            ));
        }
        let publish = sql::Publish {
            spec: table,
            target: self.quoted(&table.name),
            there: &there,
            unfit: None,
            staged: Some(staged),
            rejects: Some((
                self.quoted(&rejects::table_name(&table.name)),
                self.quoted("_drawoff_stage_…rejects…"),
            )),
            checkpoints: self.quoted(CHECKPOINTS),
            leases: self.quoted(LEASES),
            loads: (self.quoted(LOADS), audit::LOAD_PARAMETERS.to_vec()),
            // Which partitions a slice touches shows when it is staged.
            among: None,
            closes: table.absent == Absent::Close && table.disposition.is_keyed(),
            closed: None,
        };
        (steps, sql::publish(&publish))
    }

    /// How rows go straight into the table, and the script that publishes them.
    fn plan_direct(&self, table: &TableSpec) -> (Vec<String>, String) {
        let target = self.quoted(&table.name);
        let way = match table.write_method {
            WriteMethod::InsertAll => {
                "with `tabledata.insertAll`: no job, billed by the size of the rows; then one query job a slice counts them"
            }
            _ => "with the Storage Write API: no job",
        };
        let steps = vec![
            format!("take back from {target} what a dead run may have left in it"),
            format!(
                "note each slice in {}: one query job",
                self.quoted(OPEN_SLICES)
            ),
            format!("write rows straight into {target} {way}"),
        ];
        (steps, self.planned_publish(table))
    }
}

/// `9 MiB`, `3.5 MiB`.
fn mebibytes(bytes: usize) -> String {
    match (bytes * 10) >> 20 {
        tenths if tenths % 10 == 0 => format!("{} MiB", tenths / 10),
        tenths => format!("{}.{} MiB", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::bigquery::{EMULATOR_REQUEST_BYTES, REQUEST_BYTES};

    #[test]
    fn sizes_are_said_as_documented() {
        assert_eq!(mebibytes(REQUEST_BYTES), "9 MiB");
        assert_eq!(mebibytes(EMULATOR_REQUEST_BYTES), "3.5 MiB");
    }
}
