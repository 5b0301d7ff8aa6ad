//! The plugin host.

mod capability;

pub use capability::Capability;
