//! The tests that need more than one room: one suite over every sink and source, and the beds it runs on.

pub mod conformance;
