//! The tests that need more than one room: one suite over every sink and source, the beds it runs on, and where real
//! services answer.

pub mod conformance;
pub mod services;
