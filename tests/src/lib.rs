//! The tests that need more than one room: one suite over every sink and source, the beds it runs on, programs as
//! processes, a proxy with faults, and where real services answer.

#![allow(clippy::panic, reason = "a test says by panicking what it expected")]

pub mod conformance;
pub mod guests;
pub mod papers;
pub mod process;
pub mod proxy;
pub mod services;
pub mod stamps;
pub mod topics;
