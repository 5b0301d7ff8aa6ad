//! A daemon's own small disk, under its cache of compiled plugins and its spill, which can be full.
//!
//! In: a directory. Out: a directory in which nothing more can be written while it is full. As root a file system of its
//! own, in memory; otherwise a limit on what the daemon may write, which ends each file where it is.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::Failure;

/// Room for images of plugins and for what is spilled in an hour.
const SIZE: &str = "size=64m,mode=0755";

/// Where no disk can be mounted, files end here while it is full: below what is spilled and what compiled plugins take,
/// above what the plugins' host keeps in files that stand on no disk.
const FILE_BYTES: u64 = 64 << 10;

/// A small disk.
pub(super) struct Disk {
    root: PathBuf,
    is_mounted: bool,
    is_full: bool,
}

impl Disk {
    /// Mounts it, where that is allowed and wanted.
    pub(super) fn new(root: &Path, mount: bool) -> Result<Self, Failure> {
        std::fs::create_dir_all(root)?;
        let is_mounted = mount
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", SIZE, "tmpfs"])
                .arg(root)
                .output()
                .is_ok_and(|ran| ran.status.success());
        Ok(Self { root: root.to_owned(), is_mounted, is_full: false })
    }

    /// Where it is.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn filler(&self) -> PathBuf {
        self.root.join("filler")
    }

    /// A daemon on this disk.
    pub(super) fn command(&self, program: &Path, project: &Path) -> Command {
        if self.is_mounted {
            let mut command = Command::new(program);
            command.arg("run").arg(project);
            return command;
        }
        // With the signal ignored the limit is an error of each write. The log is written by another process, or it would
        // end as well.
        let limit = if self.is_full { format!("{}", FILE_BYTES >> 10) } else { "unlimited".to_owned() };
        let script = "exec > >(exec cat) 2>&1; trap '' XFSZ; ulimit -S -f \"$2\"; exec \"$0\" run \"$1\"";
        let mut command = Command::new("bash");
        command.args(["-c", script]).arg(program).arg(project).arg(limit);
        command
    }

    /// Takes all room, from a running daemon too.
    pub(super) fn fill(&mut self, daemon: Option<u32>) -> Result<(), Failure> {
        self.is_full = true;
        if !self.is_mounted {
            return limit(daemon, Some(FILE_BYTES));
        }
        let mut filler = File::create(self.filler())?;
        for piece in [1 << 20, 64 << 10, 4 << 10, 1] {
            while filler.write_all(&vec![0; piece]).is_ok() {}
        }
        Ok(())
    }

    /// Gives it back.
    pub(super) fn free(&mut self, daemon: Option<u32>) -> Result<(), Failure> {
        if !self.is_full {
            return Ok(());
        }
        self.is_full = false;
        if !self.is_mounted {
            return limit(daemon, None);
        }
        Ok(std::fs::remove_file(self.filler())?)
    }
}

fn limit(daemon: Option<u32>, bytes: Option<u64>) -> Result<(), Failure> {
    let Some(pid) = daemon.and_then(|id| Pid::from_raw(id as i32)) else { return Ok(()) };
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None })?;
    Ok(())
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            Command::new("umount").arg("-l").arg(&self.root).output().ok();
        }
    }
}
