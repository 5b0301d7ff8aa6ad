//! A plugin in as many versions as a test wants: `tests/plugins/stamps`, with another text in its artifact.
//!
//! In: the artifact that was built. Out: artifacts with digests of their own, that stamp their text into every row, and do
//! what its first word says: `version`, `traps`, `costly`, `rejects`, `strays`.

use std::path::{Path, PathBuf};

use pelton::record::Digest;

use crate::process::repository;

/// What stands in the artifact, and is replaced.
const VERSION: &[u8] = b"version 0000000000000000";

/// A version of the plugin.
#[derive(Debug, Clone)]
pub struct Stamps {
    /// What it stamps.
    pub text: String,
    /// The artifact.
    pub artifact: Vec<u8>,
    /// Its digest, short.
    pub digest: String,
}

impl Stamps {
    /// The version `word number`.
    ///
    /// # Errors
    /// Where the plugin is not built, in words.
    pub fn of(word: &str, number: u64) -> Result<Self, String> {
        let path: PathBuf = repository().join("tests/plugins/stamps/stamps.wasm");
        let mut artifact = std::fs::read(&path).map_err(|error| {
            format!("{}: {error}; build it with: pelton plugin build tests/plugins", path.display())
        })?;
        let width = VERSION.len() - word.len() - 1;
        let text = format!("{word} {number:0width$}");
        let at = artifact.windows(VERSION.len()).position(|bytes| bytes == VERSION);
        let at = at.ok_or_else(|| format!("{}: there is no version in it", path.display()))?;
        artifact.splice(at..at + VERSION.len(), text.bytes());
        let digest = Digest::of(&artifact).short();
        Ok(Self { text, artifact, digest })
    }

    /// Puts it in the place of another, as a whole.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn put(&self, artifact: &Path) -> std::io::Result<()> {
        let beside = artifact.with_extension("part");
        std::fs::write(&beside, &self.artifact)?;
        std::fs::rename(beside, artifact)
    }
}
