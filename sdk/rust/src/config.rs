//! Capability `config`: the `config:` block by key. Most plugins need none of it: their
//! [`Transform::Config`](crate::Transform::Config) is read without a grant.

use serde::de::DeserializeOwned;

use crate::ConfigError;

/// The value of a top-level key; none where it is absent.
///
/// # Errors
/// Where it does not fit.
pub fn get<T: DeserializeOwned>(key: &str) -> Result<Option<T>, ConfigError> {
    crate::host::config(key)
        .map(|json| serde_json::from_str(&json).map_err(|error| ConfigError::key(key, error)))
        .transpose()
}
