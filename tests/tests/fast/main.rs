//! Tests that need no services.

#![allow(clippy::panic, reason = "a test says by panicking what it expected")]

mod conformance;
mod letters;
mod readme;
