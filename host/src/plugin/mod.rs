//! The plugin host: sandboxed components as steps of the line.
//!
//! In: a component's bytes, its configuration, its grants and limits; then batches. Out: a
//! [`Transform`](crate::pipeline::Transform) whose every answer has been checked, or an error that says what the guest
//! did. A guest sees nothing but what it subscribed to and what it was granted: no files, no sockets, no environment,
//! no wall clock.
//!
//! Nothing outside of this room names the Wasm runtime. This room never reads a pipeline file, never blocks on a
//! network and never decides what becomes of a record that fails.

pub mod artifact;
mod capability;
pub mod inspect;

pub use capability::Capability;
