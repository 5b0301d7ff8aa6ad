//! Reading files that an operator names, whatever stands there.
//!
//! In: a path. Out: its bytes, or why they cannot be had. Reads regular files only (a pipe would be waited for without
//! end), and no more of one than a configuration can be: a device, or a log by mistake, does not fill the memory.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Bytes of a configuration file, or of one that is filled in.
pub(super) const FILE_BYTES_MAX: usize = 4 << 20;

/// The file's bytes; cut off one byte beyond [`FILE_BYTES_MAX`], so that a reader sees that it is too large.
///
/// # Errors
/// Where it is no file, or the system refuses.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let about = std::fs::metadata(path)?;
    if about.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !about.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a device, a pipe or a socket"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The file's text, whole.
///
/// # Errors
/// Where it is no file of text, is too large, or the system refuses.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let bytes = read(path)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 4 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}
