//! Compiled plugins on disk, so that a restart does not compile again.
//!
//! In: a component's digest and an engine. Out: the compiled image, whose hash has been verified, or nothing: whatever is
//! wrong with the cache (no room, no right to write, a damaged file) costs a compilation and a warning, never a plugin.
//!
//! An image is keyed by the component's digest and by what the engine compiles for: its version, its settings, the CPU
//! and its features. A file begins with the SHA-256 of the image behind it. The directory belongs to the daemon alone:
//! the hash finds damage, not malice, so a directory that others may write to is not used.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use wasmtime::Engine;

use crate::record::Digest;

/// A directory of compiled images.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
}

/// Bytes before the image: its SHA-256.
const HEADER_BYTES: usize = 32;

impl Cache {
    /// Opens a directory, and makes it where it is absent. None, with a warning, where it cannot be used.
    pub(super) fn open(dir: &Path) -> Option<Self> {
        match prepare(dir) {
            Ok(()) => Some(Self { dir: dir.to_owned() }),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "no cache of compiled plugins: each start compiles them anew");
                None
            }
        }
    }

    /// The image of a component for an engine, if it is there and whole.
    pub(super) fn get(&self, digest: Digest, engine: &Engine) -> Option<Vec<u8>> {
        let path = self.path(digest, engine);
        let mut file = match fs::read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "cannot read a compiled plugin: it is compiled anew");
                return None;
            }
        };
        let intact = file.split_at_checked(HEADER_BYTES).is_some_and(|(hash, image)| Digest::of(image).0 == hash);
        if !intact {
            tracing::warn!(file = %path.display(), "a compiled plugin is damaged: it is compiled anew");
            self.forget(digest, engine);
            return None;
        }
        file.drain(..HEADER_BYTES);
        Some(file)
    }

    /// Keeps an image. A failure is a warning.
    pub(super) fn put(&self, digest: Digest, engine: &Engine, image: &[u8]) {
        let path = self.path(digest, engine);
        let written = write_whole(&self.dir, &path, |file| {
            file.write_all(&Digest::of(image).0)?;
            file.write_all(image)
        });
        if let Err(error) = written {
            tracing::warn!(file = %path.display(), %error, "cannot keep a compiled plugin: the next start compiles it anew");
        }
    }

    /// Removes an image that turned out to be of no use.
    pub(super) fn forget(&self, digest: Digest, engine: &Engine) {
        let _ = fs::remove_file(self.path(digest, engine));
    }

    fn path(&self, digest: Digest, engine: &Engine) -> PathBuf {
        let mut compatibility = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut compatibility);
        std::env::consts::ARCH.hash(&mut compatibility);
        self.dir.join(format!("{}-{:016x}.compiled", hex::encode(digest.0), compatibility.finish()))
    }
}

fn prepare(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let found = fs::metadata(dir)?;
    let owner = rustix::process::geteuid().as_raw();
    if found.uid() != owner || found.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "others may write to this directory; make it the daemon's own, with mode 0700",
        ));
    }
    Ok(())
}

/// Writes a file beside its place and moves it there when it is whole: nobody ever reads half a file, and a full disk
/// leaves none behind.
fn write_whole(dir: &Path, path: &Path, write: impl FnOnce(&mut fs::File) -> io::Result<()>) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    write(file.as_file_mut())?;
    file.as_file().sync_data()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_damaged_image_is_not_given_out_and_not_kept() {
        let dir = tempfile::tempdir().expect("a directory");
        let (cache, engine) = (Cache::open(dir.path()).expect("a cache"), Engine::default());
        let digest = Digest::of(b"plugin");
        assert_eq!(cache.get(digest, &engine), None);
        cache.put(digest, &engine, b"image");
        assert_eq!(cache.get(digest, &engine).as_deref(), Some(&b"image"[..]));
        for damaged in [&b"short"[..], &[0; 40]] {
            fs::write(cache.path(digest, &engine), damaged).expect("written");
            assert_eq!(cache.get(digest, &engine), None);
            assert!(!cache.path(digest, &engine).exists());
        }
    }

    #[test]
    fn a_write_that_fails_half_way_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("image");
        let full = write_whole(dir.path(), &path, |file| {
            file.write_all(b"half")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(full.map_err(|error| error.kind()), Err(io::ErrorKind::StorageFull));
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }

    #[test]
    fn a_directory_that_others_may_write_to_or_that_cannot_be_made_is_not_used() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("set");
        assert!(Cache::open(dir.path()).is_none());
        let file = dir.path().join("file");
        fs::write(&file, b"").expect("written");
        assert!(Cache::open(&file.join("cache")).is_none());
    }
}
