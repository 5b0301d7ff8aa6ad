//! Notices that files of a project have changed.
//!
//! In: which files, and how they look now. Out: that they have changed, once they look the same at two looks in a row: a
//! file that is being written is waited for. Looks at size, time and inode alone, so that it sees a link that was put in
//! another place, as container platforms do it, and works on every file system.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// How files look: none for one that is not there.
pub(super) type Look = BTreeMap<PathBuf, Option<(u64, u64, i64, i64)>>;

/// Watches files.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// As they looked when they were last taken over.
    taken: Look,
    /// As they looked last.
    last: Look,
}

impl Watch {
    /// Takes files as they looked before they were read: what is written meanwhile is another change.
    pub(super) fn take(&mut self, look: Look) {
        self.last.clone_from(&look);
        self.taken = look;
    }

    /// The same, but those that were looked at before as they looked then.
    pub(super) fn take_as(&mut self, looked: &Look, files: impl IntoIterator<Item = PathBuf>) {
        self.take(look(files));
        for (path, look) in &mut self.taken {
            if let Some(before) = looked.get(path) {
                *look = *before;
            }
        }
    }

    /// Looks at these files: whether they are other than when they were taken, and nobody writes to them any more. They
    /// are taken then.
    pub(super) fn has_changed(&mut self, files: impl IntoIterator<Item = PathBuf>) -> bool {
        let now = look(files);
        let is_still = now == self.last;
        self.last = now;
        let has_changed = is_still && self.last != self.taken;
        if has_changed {
            self.taken.clone_from(&self.last);
        }
        has_changed
    }
}

/// How files look now.
pub(super) fn look(files: impl IntoIterator<Item = PathBuf>) -> Look {
    let of = |path: &PathBuf| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
    };
    files.into_iter().map(|path| (path.clone(), of(&path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_while_it_is_taken_over_has_changed_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, new) = (dir.path().join("a.wasm"), dir.path().join("b.wasm"));
        std::fs::write(&file, "one").expect("written");
        let mut watch = Watch::default();
        let looked = look([file.clone()]);
        std::fs::write(&file, "another").expect("written");
        std::fs::write(&new, "of a new step").expect("written");
        watch.take_as(&looked, [file.clone(), new.clone()]);
        assert!(watch.has_changed([file.clone(), new.clone()]));
        assert!(!watch.has_changed([file, new]), "once");
    }

    #[test]
    fn a_file_has_changed_once_it_stands_still() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("a.wasm");
        let files = || [file.clone(), dir.path().join("not there")];
        std::fs::write(&file, "one").expect("written");
        let mut watch = Watch::default();
        watch.take(look(files()));
        assert!(!watch.has_changed(files()));
        std::fs::write(&file, "two, half").expect("written");
        assert!(!watch.has_changed(files()), "it may still be written to");
        std::fs::write(&file, "two, half written").expect("written");
        assert!(!watch.has_changed(files()));
        assert!(watch.has_changed(files()));
        assert!(!watch.has_changed(files()), "once");
        let before = look(files());
        std::fs::write(&file, "three, while two is read").expect("written");
        watch.take(before);
        assert!(!watch.has_changed(files()));
        assert!(watch.has_changed(files()), "what is written while it is read is not lost");
        std::fs::remove_file(&file).expect("removed");
        assert!(!watch.has_changed(files()));
        assert!(watch.has_changed(files()));
    }
}
