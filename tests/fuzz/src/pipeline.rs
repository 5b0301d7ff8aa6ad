//! The line, as far as it reads what others wrote.

#[path = "../../../host/src/pipeline/checkpoint.rs"]
pub mod checkpoint;
#[path = "../../../host/src/pipeline/dead_letter_file.rs"]
pub mod dead_letter_file;
#[path = "../../../host/src/pipeline/decode/mod.rs"]
pub mod decode;
#[path = "../../../host/src/pipeline/journal.rs"]
pub mod journal;
#[path = "../../../host/src/pipeline/json_patch.rs"]
pub mod json_patch;
#[path = "../../../host/src/pipeline/seams.rs"]
pub mod seams;
#[path = "../../../host/src/pipeline/stamping.rs"]
pub mod stamping;
#[path = "../../../host/src/pipeline/write_clock.rs"]
pub mod write_clock;

pub use seams::*;
