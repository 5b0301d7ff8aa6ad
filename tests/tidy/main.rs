//! What must hold of the repository itself: every room has its door sign, nothing stands where it must not, and what the
//! papers say is there.
//!
//! In: the files of the repository. Out: every breach with its file, and line where there is one. Never builds or
//! runs anything.

#![allow(clippy::panic, reason = "a test says by panicking what it expected")]

mod compose;
mod files;
mod papers;
mod rooms;
mod words;
