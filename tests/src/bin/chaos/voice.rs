//! What a run says while it goes on.
//!
//! In: lines. Out: the same on standard error and in a file, each with its time since the start.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use tokio::time::Instant;

use super::Failure;

/// Where it is said.
pub(super) struct Voice {
    began: Instant,
    file: File,
}

impl Voice {
    /// Begins to count.
    pub(super) fn new(path: &Path) -> Result<Self, Failure> {
        Ok(Self { began: Instant::now(), file: File::create_new(path)? })
    }

    /// One line.
    pub(super) fn say(&self, text: &str) {
        let line = format!("{:>7.1} s  {text}", self.began.elapsed().as_secs_f32());
        eprintln!("{line}");
        writeln!(&self.file, "{line}").ok();
    }
}
