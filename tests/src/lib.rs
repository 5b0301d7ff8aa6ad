//! The tests that need more than one room: one suite over every sink and source, the beds it runs on, and where real
//! services answer.

#![allow(clippy::panic, reason = "a test says by panicking what it expected")]

pub mod conformance;
pub mod services;
