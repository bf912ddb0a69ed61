//! A table's files again, in wider types.

use super::Folder;
use super::durable::flush_folder;
use super::encode::{PartWriter, read};
use super::manifest::Manifest;
use super::staging::StagingFolder;
use crate::error::Result;
use crate::schema::arrow_schema;

/// Writes every file of the table anew in the schema that the manifest has for it, and notes in the
/// manifest, which the caller saves, that the new ones take the place of the old.
pub fn rewrite(
    folder: &Folder,
    manifest: &mut Manifest,
    staging: &StagingFolder,
    name: &str,
) -> Result<()> {
    let Some(table) = manifest.tables.get_mut(name) else {
        return Ok(());
    };
    let schema = arrow_schema(&table.schema);
    let mut out = PartWriter::new(staging.path.clone(), "wider", schema);
    for file in &table.files {
        for batch in read(&folder.root.join(name).join(&file.name), None)? {
            out.write(&batch?)?;
        }
        manifest.pending.remove(name, [&file.name]);
    }
    table.files.clear();
    for (number, file) in out.finish()?.into_iter().enumerate() {
        let part = format!("part-wider-{}-{number:04}.parquet", staging.id);
        let part = manifest.pending.bring(&file, staging, name, part);
        table.files.push(part);
    }
    flush_folder(&staging.path)
}
