//! Which rows a slice supersedes: older staged rows with the same key, and rows of the table's files.
//!
//! Keys are compared by 128 bits of their SHA-256, so that no two keys that an API could make up are
//! taken for one. The hashes of the staged rows lie in a file; they are worked through in passes,
//! each over as many of them as fit in the memory given, and each row to be left out costs a bit.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use arrow_array::{BooleanArray, RecordBatch};
use arrow_buffer::{BooleanBuffer, BooleanBufferBuilder};
use arrow_select::filter::filter_record_batch;
use sha2::{Digest, Sha256};

use super::encode::{PartWriter, Written, read};
use super::failure::{arrow, failed};
use crate::destination::key::rank;
use crate::error::Result;
use crate::schema::render::Cells;

const HASH_BYTES: usize = 16;

/// Hashes of the staged rows' keys, in the order in which they were staged.
pub struct KeyFile {
    path: PathBuf,
    out: BufWriter<File>,
    rows: u64,
}

impl KeyFile {
    pub fn create(path: PathBuf) -> Result<Self> {
        let file = File::options()
            .create_new(true)
            .write(true)
            .open(&path)
            .map_err(|e| failed(format!("could not create {}", path.display()), e))?;
        Ok(Self {
            path,
            out: BufWriter::with_capacity(64 * 1024, file),
            rows: 0,
        })
    }

    /// Adds a batch's rows, whose keys are in the columns at these positions, without nulls.
    pub fn add(&mut self, batch: &RecordBatch, columns: &[usize]) -> Result<()> {
        let fields = batch.schema_ref().fields();
        let cells = columns
            .iter()
            .map(|at| Cells::of(&fields[*at], batch.column(*at)))
            .collect::<Result<Vec<_>>>()?;
        let mut scratch = Vec::new();
        for row in 0..batch.num_rows() {
            let hash = hash(&cells, row, &mut scratch);
            self.out
                .write_all(&hash.to_le_bytes())
                .map_err(|e| failed(format!("could not write {}", self.path.display()), e))?;
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    /// All are in the file then.
    pub fn finish(mut self) -> Result<Keys> {
        self.out
            .flush()
            .map_err(|e| failed(format!("could not write {}", self.path.display()), e))?;
        Ok(Keys {
            path: self.path,
            rows: self.rows,
        })
    }
}

/// The file of hashes, complete.
pub struct Keys {
    path: PathBuf,
    rows: u64,
}

impl Keys {
    fn hashes(&self) -> Result<impl Iterator<Item = Result<u128>> + '_> {
        let fail = |e| failed(format!("could not read {}", self.path.display()), e);
        let file = File::open(&self.path).map_err(fail)?;
        let mut file = BufReader::with_capacity(64 * 1024, file);
        Ok((0..self.rows).map(move |_| {
            let mut bytes = [0; HASH_BYTES];
            file.read_exact(&mut bytes).map_err(fail)?;
            Ok(u128::from_le_bytes(bytes))
        }))
    }
}

/// Rows of one file, or of several as if they were one, that are to be kept.
pub struct Kept {
    keep: BooleanBufferBuilder,
    dropped: u64,
}

impl Kept {
    fn all(rows: u64) -> Self {
        let mut keep = BooleanBufferBuilder::new(0);
        // A file of more rows than a machine can address is not written.
        keep.append_n(usize::try_from(rows).unwrap_or(usize::MAX), true);
        Self { keep, dropped: 0 }
    }

    fn drop_row(&mut self, row: usize) {
        if self.keep.get_bit(row) {
            self.keep.set_bit(row, false);
            self.dropped += 1;
        }
    }

    /// Rows that are not.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// As a mask.
    pub fn mask(mut self) -> BooleanBuffer {
        self.keep.finish()
    }
}

/// What a slice's rows supersede.
pub struct Superseded {
    /// Over all staged rows in order.
    pub staged: Kept,
    /// One for each of the table's files; `None` where it has no such row.
    pub existing: Vec<Option<Kept>>,
}

/// A file of the table.
pub struct Existing<'a> {
    pub path: PathBuf,
    pub rows: u64,
    /// Names of the key columns.
    pub key: &'a [&'a str],
}

/// Finds what the staged rows supersede.
pub fn superseded(
    keys: &Keys,
    staged: &[Written],
    cursor: Option<&str>,
    existing: &[Existing<'_>],
    memory: usize,
) -> Result<Superseded> {
    let mut found = Superseded {
        staged: Kept::all(keys.rows),
        existing: existing.iter().map(|_| None).collect(),
    };
    let passes = keys
        .rows
        .div_ceil((memory / HASH_BYTES).max(1) as u64)
        .max(1);
    for pass in 0..passes {
        let within = |hash: u128| (((hash >> 64) * u128::from(passes)) >> 64) == u128::from(pass);
        let mut hashes = Vec::new();
        if passes == 1 {
            hashes.reserve_exact(usize::try_from(keys.rows).unwrap_or(0));
        }
        for hash in keys.hashes()? {
            let hash = hash?;
            if within(hash) {
                hashes.push(hash);
            }
        }
        hashes.sort_unstable();
        let doubles = hashes
            .windows(2)
            .filter(|w| w[0] == w[1])
            .map(|w| (w[0], None));
        let doubles: HashMap<u128, Option<Newest>> = doubles.collect();
        if !doubles.is_empty() {
            older(keys, staged, cursor, doubles, &mut found.staged)?;
        }
        hashes.dedup();
        for (file, kept) in existing.iter().zip(&mut found.existing) {
            overlap(file, &hashes, within, kept)?;
        }
    }
    Ok(found)
}

/// The newest row of a key so far.
struct Newest {
    rank: Option<Vec<u8>>,
    row: usize,
}

/// Drops all but the newest of the staged rows of each of the keys.
fn older(
    keys: &Keys,
    staged: &[Written],
    cursor: Option<&str>,
    mut doubles: HashMap<u128, Option<Newest>>,
    kept: &mut Kept,
) -> Result<()> {
    let mut hashes = keys.hashes()?.enumerate();
    let mut take = |rows: usize, rank: &dyn Fn(usize) -> Option<Vec<u8>>| -> Result<()> {
        for (at, (row, hash)) in hashes.by_ref().take(rows).enumerate() {
            let Some(newest) = doubles.get_mut(&hash?) else {
                continue;
            };
            let this = Newest {
                rank: rank(at),
                row,
            };
            match newest {
                None => *newest = Some(this),
                Some(best) if this.rank >= best.rank => {
                    kept.drop_row(best.row);
                    *best = this;
                }
                Some(_) => kept.drop_row(row),
            }
        }
        Ok(())
    };
    let Some(cursor) = cursor else {
        return take(usize::MAX, &|_| None);
    };
    for part in staged {
        for batch in read(&part.path, Some(&[cursor]))? {
            let batch = batch?;
            let cells = Cells::of_batch(&batch)?;
            take(batch.num_rows(), &|at| {
                cells.first().and_then(|c| rank(c, at))
            })?;
        }
    }
    Ok(())
}

/// Drops the file's rows whose keys are among the hashes, which are sorted.
fn overlap(
    file: &Existing<'_>,
    hashes: &[u128],
    within: impl Fn(u128) -> bool,
    kept: &mut Option<Kept>,
) -> Result<()> {
    if hashes.is_empty() {
        return Ok(());
    }
    let mut first = 0;
    let mut scratch = Vec::new();
    for batch in read(&file.path, Some(file.key))? {
        let batch = batch?;
        let mut cells = Vec::with_capacity(file.key.len());
        for name in file.key {
            let fields = batch.schema_ref().fields();
            let at = fields
                .iter()
                .position(|f| f.name().eq_ignore_ascii_case(name));
            let Some(at) = at else {
                // The file is older than the column: its rows have no such key.
                return Ok(());
            };
            cells.push(Cells::of(&fields[at], batch.column(at))?);
        }
        for row in 0..batch.num_rows() {
            if cells.iter().any(|c| c.is_null(row)) {
                continue;
            }
            let hash = hash(&cells, row, &mut scratch);
            if within(hash) && hashes.binary_search(&hash).is_ok() {
                kept.get_or_insert_with(|| Kept::all(file.rows))
                    .drop_row(first + row);
            }
        }
        first += batch.num_rows();
    }
    Ok(())
}

/// Copies the rows to be kept; `first` is the place in the mask of the file's first row.
pub fn copy_kept(
    path: &Path,
    keep: &BooleanBuffer,
    mut first: usize,
    out: &mut PartWriter,
) -> Result<()> {
    for batch in read(path, None)? {
        let batch = batch?;
        let mask = BooleanArray::new(keep.slice(first, batch.num_rows()), None);
        first += batch.num_rows();
        out.write(&filter_record_batch(&batch, &mask).map_err(arrow)?)?;
    }
    Ok(())
}

/// Half the SHA-256 of a key, each part of which is led by its length.
fn hash(cells: &[Cells<'_>], row: usize, scratch: &mut Vec<u8>) -> u128 {
    scratch.clear();
    for cell in cells {
        let at = scratch.len();
        scratch.extend_from_slice(&[0; 4]);
        match cell {
            Cells::Int(a) => scratch.extend_from_slice(&a.value(row).to_le_bytes()),
            _ => cell.text(row, scratch),
        }
        // No value is longer than 4 GiB: Arrow's offsets are 32-bit.
        let length = (scratch.len() - at - 4) as u32;
        scratch[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
    let digest = Sha256::digest(&scratch);
    let mut half = [0; HASH_BYTES];
    half.copy_from_slice(&digest[..HASH_BYTES]);
    u128::from_le_bytes(half)
}
