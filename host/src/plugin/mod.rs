//! The plugin host: sandboxed components as steps of the line.
//!
//! In: a component's bytes, its configuration, its grants and limits; then batches. Out: a
//! [`Transform`](crate::pipeline::Transform) whose every answer has been checked, or an error that says what the guest
//! did. A guest sees nothing but what it subscribed to and what it was granted: no files, no sockets, no environment,
//! no wall clock.
//!
//! ```text
//!   file ─► artifact ─► imports ─► runtime ─► subscription ─► transform ─► instance ─► check
//!           what it     granted?   compiled    what it reads    a step of    one guest,   is any of
//!           claims                 or cached   and sets         the line     one batch    it true?
//! ```
//!
//! Code is compiled in a child process under limits of its own ([`compile`]).
//!
//! Nothing outside of this room names the Wasm runtime. This room never reads a pipeline file, never blocks on a
//! network (a guest that asks others leaves its thread until [`egress`](crate::egress) has their answer) and never decides
//! what becomes of a record that fails.

pub mod artifact;
mod bindings;
mod budget;
pub mod build;
mod cache;
mod capability;
pub mod cases;
mod check;
pub mod compile;
mod cpu_clock;
mod effects;
mod error;
mod http;
mod imports;
pub mod inspect;
mod instance;
mod runtime;
pub mod scaffold;
mod state;
mod subscription;
mod transform;
mod wasi;

pub use capability::Capability;
pub use compile::Compiler;
pub use error::LoadError;
pub use imports::{Refusal, check_imports};
pub use runtime::{Runtime, RuntimeError};
pub use transform::{WasmTransform, instances_max};
