//! The plugin host.

mod capability;
pub mod inspect;

pub use capability::Capability;
