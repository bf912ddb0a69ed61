//! What a run would do, found out by reading alone: GET requests and nothing else.

use super::state::own_tables;
use super::{BigQuery, CHECKPOINTS, LEASES, REQUEST_BYTES, shape, spec, sql};
use crate::destination::audit::{self, LOADS};
use crate::destination::{Absent, Plan, TableSpec, WriteMethod, rejects};
use crate::error::Result;

impl BigQuery {
    pub(super) async fn plan_table(&self, table: &TableSpec) -> Result<Plan> {
        spec::check(table)?;
        let api = self.api();
        let target = api.target();
        let mut changes = Vec::new();
        let there = api.dataset().await?.is_some();
        if !there {
            changes.push(format!(
                "create dataset `{target}` in `{}`",
                api.new_location()
            ));
        }
        for (name, _, _) in own_tables() {
            if !there || api.table(name).await?.is_none() {
                changes.push(format!("create table `{name}`, which is drawoff's own"));
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
        let staged = self.quoted("_drawoff_stage_…");
        let publish = sql::Publish {
            spec: table,
            target: self.quoted(&table.name),
            there: &there,
            unfit: None,
            staged: Some(staged.clone()),
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
        Ok(Plan {
            changes,
            steps: vec![
                match table.write_method {
                    WriteMethod::LoadJob => format!("load rows into {staged}: load jobs, free"),
                    _ => format!(
                        "write rows into {staged} with the Storage Write API, at most {} MiB a request: no job",
                        REQUEST_BYTES >> 20
                    ),
                },
                format!(
                    "publish into `{target}.{}` ({}): one query job a slice in project `{}`, billed for the bytes it reads{}",
                    table.name,
                    audit::disposition(table.disposition),
                    api.job_project(),
                    match api.maximum_bytes_billed() {
                        Some(most) => format!(", refused above {most}"),
                        None => String::new(),
                    }
                ),
            ],
            sql: Some(sql::publish(&publish)),
        })
    }
}
