//! Pelton: records flow from Kafka through sandboxed WebAssembly plugins into tables and topics.
//!
//! The rooms, in the order in which a record meets them:
//!
//! ```text
//!   config ──► startup ──► daemon ──► supervisor ◄── admin, cli
//!                                        │ one task per pipeline and partition
//!                                        ▼
//!   kafka ─► Source ─► decode ─► Transform ─► encode ─► Sink ─► kafka, cassandra, sqlite
//!   memory     │                 (plugin ─► egress)       │      memory
//!              │                                 └──► DeadLetters
//!              └──◄── commit ◄── tracker ◄── acknowledgement
//! ```
//!
//! Each folder's `mod.rs` says what comes in, what goes out, and what the room never does.
//! `ARCHITECTURE.md` at the top of the repository has the whole map.

pub mod admin;
pub mod cassandra;
pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dead_letters;
pub mod demo;
pub mod egress;
pub mod kafka;
pub mod memory;
pub mod pipeline;
pub mod plugin;
pub mod record;
pub mod reload;
pub mod shell;
pub mod sqlite;
pub mod startup;
pub mod status;
pub mod supervisor;
pub mod telemetry;
