//! A limit of memory that the kernel keeps: a control group, of the first kind or the second.

use std::path::{Path, PathBuf};

/// A group of processes that may hold so much memory together, files in memory included. It is removed when
/// this is dropped.
pub struct Group {
    path: PathBuf,
    most: &'static str,
}

impl Group {
    /// Makes one.
    ///
    /// # Panics
    /// Where none can be made, saying what it takes.
    #[allow(clippy::panic)]
    pub fn new(bytes: u64) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let (root, limit, swap, most) = match root.join("memory/memory.limit_in_bytes").exists() {
            true => (
                root.join("memory"),
                "memory.limit_in_bytes",
                "memory.memsw.limit_in_bytes",
                "memory.max_usage_in_bytes",
            ),
            false => (
                root.to_path_buf(),
                "memory.max",
                "memory.swap.max",
                "memory.peak",
            ),
        };
        let path = root.join(format!("drawoff-bench-{}", std::process::id()));
        let made = std::fs::create_dir(&path)
            .and_then(|()| std::fs::write(path.join(limit), bytes.to_string()));
        if let Err(e) = made {
            panic!(
                "could not limit memory by control group `{}`: {e}; run as root, with the memory controller mounted",
                path.display()
            );
        }
        // Where swap is not counted there is none.
        let swap_limit = if swap == "memory.swap.max" { 0 } else { bytes };
        let _ = std::fs::write(path.join(swap), swap_limit.to_string());
        Self { path, most }
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts this process, and those that it starts, into the group of that folder.
    pub fn enter(path: &Path) {
        let id = std::process::id().to_string();
        std::fs::write(path.join("cgroup.procs"), id).expect("the group takes this process in");
    }

    /// The most bytes held at once.
    pub fn most(&self) -> u64 {
        let text = std::fs::read_to_string(self.path.join(self.most)).expect("the group's figures");
        text.trim().parse().expect("a figure")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.path);
    }
}
