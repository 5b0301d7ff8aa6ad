//! Letters that did not fit into their topic, from their spill files.
//!
//! In: a pointer, and the directory where this host spills. Out: the letter, checked by its digest, or where it lies
//! instead and what to do. A file that was rotated away under another name is found by its inode.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use super::cases::is_letter;
use crate::pipeline::DeadLetter;
use crate::pipeline::dead_letter_file::{DeadLetterLine, SpillPointer, host_name};
use crate::record::Digest;

/// A spilled line is not longer than this, bytes: no source takes larger records.
const LINE_BYTES_MAX: u64 = 2 << 30;

/// Reads the letter that a pointer leads to.
///
/// # Errors
/// Where it is not here: why, and what to do, in words for people.
pub fn follow(dir: &Path, pointer: &SpillPointer) -> Result<DeadLetter, String> {
    let named = Path::new(&pointer.file).file_name().map(|name| dir.join(name));
    let found = named.and_then(|path| line_at(&path, pointer)).or_else(|| rotated(dir, pointer));
    if let Some(line) = found {
        let read: Result<DeadLetterLine, _> = serde_json::from_slice(&line);
        return read
            .map_err(|error| error.to_string())
            .and_then(|line| line.letter().map_err(|error| error.to_string()))
            .and_then(|letter| if is_letter(&letter) { Ok(letter) } else { Err("no record can be so".to_owned()) })
            .map_err(|error| format!("its line in the spill file {} is damaged: {error}", pointer.file));
    }
    let here = host_name();
    let SpillPointer { host, file, .. } = pointer;
    Err(if *host != here && !host.is_empty() {
        format!(
            "the record lies on host {host}, in the file {file} of its `spill_dir`: run this there, or copy the file into \
             {} of this host ({here})",
            dir.display()
        )
    } else {
        format!("the record lay in {}, and is not there any more: put the file back", dir.join(file).display())
    })
}

/// The line at the pointer's place, where it is the one that is meant.
fn line_at(path: &Path, pointer: &SpillPointer) -> Option<Vec<u8>> {
    if pointer.length > LINE_BYTES_MAX {
        return None;
    }
    let file = File::open(path).ok()?;
    let mut line = vec![0; usize::try_from(pointer.length.min(file.metadata().ok()?.len())).ok()?];
    file.read_exact_at(&mut line, pointer.offset).ok()?;
    (hex::encode(Digest::of(&line).0) == pointer.sha256).then_some(line)
}

fn rotated(dir: &Path, pointer: &SpillPointer) -> Option<Vec<u8>> {
    let files: io::Result<Vec<_>> = std::fs::read_dir(dir).ok()?.collect();
    let is_meant = |entry: &std::fs::DirEntry| entry.metadata().is_ok_and(|meta| meta.ino() == pointer.inode);
    files.ok()?.into_iter().filter(is_meant).find_map(|entry| line_at(&entry.path(), pointer))
}

#[cfg(test)]
mod tests {
    use super::super::cases::tests::{forged, letter};
    use super::*;
    use crate::pipeline::dead_letter_file::LetterFile;

    #[tokio::test]
    async fn a_spilled_letter_is_found_also_after_a_rotation_and_else_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("orders.jsonl");
        let sent = [letter(1, "a"), letter(2, "b")];
        let pointers = LetterFile::at(&path).write(&sent).await;
        assert_eq!(follow(dir.path(), &pointers[1]).as_ref(), Ok(&sent[1]));
        std::fs::rename(&path, dir.path().join("orders.jsonl.1")).expect("renamed");
        assert_eq!(follow(dir.path(), &pointers[0]).as_ref(), Ok(&sent[0]));

        std::fs::write(dir.path().join("orders.jsonl.1"), b"something else").expect("written");
        let gone = follow(dir.path(), &pointers[0]).expect_err("it is gone");
        assert!(gone.contains("not there any more"), "{gone}");
        let forged = LetterFile::at(dir.path().join("forged.jsonl")).write(&forged().0).await;
        let forged = follow(dir.path(), &forged[0]).expect_err("no letter");
        assert!(forged.contains("damaged: no record can be so"), "{forged}");
        let elsewhere = SpillPointer { host: "kf-17".to_owned(), ..pointers[0].clone() };
        let elsewhere = follow(dir.path(), &elsewhere).expect_err("it is elsewhere");
        assert!(elsewhere.contains("host kf-17") && elsewhere.contains("orders.jsonl"), "{elsewhere}");
    }
}
