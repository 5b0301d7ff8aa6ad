//! Dead letters as a workflow: what lies there, what is still open, and what of it is sent through the line again.
//!
//! In: what stands in a pipeline's place for dead letters (a topic or a file), and what an operator asks for. Out: cases
//! and groups of them, lines to edit, records with their own write times for the line, and marks of what was redriven.
//! Knows no vendor: a [`Place`] is a topic or a file. Never changes or deletes a letter; what became of it stands beside
//! it, in marks.
//!
//! | File          | In                            | Out                                                |
//! |---------------|-------------------------------|----------------------------------------------------|
//! | [`cases`]     | letters and marks, any order  | cases: what is open, what was redriven (pure)      |
//! | [`groups`]    | cases                         | groups by code, plugin, digest (pure)              |
//! | [`lines`]     | a letter; an edited line      | a line to edit; the record as it was edited (pure) |
//! | [`plan`]      | cases, edits, the line's hash | records with write times, in rounds (pure)         |
//! | [`claims`]    | marks, in their order         | who has a record's write time, of several redrives |
//! | [`rebuilding`] | cases, a range               | what reading again does not bring back (pure)      |
//! | [`redriving`] | a request, a place, a line    | rows, letters, marks, and a report                 |
//! | [`case_folder`] | a letter, a plugin's directory | a test case                                       |
//! | [`place`]     |                               | what a place gives and takes                       |
//! | [`mod@file`]  | a file of letters             | a [`Place`]                                        |
//! | [`headers`]   | a letter; a record of a topic | its headers; what the record is (pure)             |
//! | [`spill`]     | a pointer                     | the letter that did not fit into its topic         |

pub mod case_folder;
pub mod cases;
pub mod claims;
pub mod file;
pub mod groups;
pub mod headers;
pub mod lines;
pub mod place;
pub mod plan;
pub mod rebuilding;
pub mod redriving;
#[cfg(test)]
mod redriving_tests;
pub mod spill;

pub use place::{Entry, Found, Mark, Place, Reached};
