//! Dead letters, as far as they are read: what others wrote to a topic or a file of letters, up to the plan of a redrive.

#[path = "../../../host/src/dead_letters/cases.rs"]
pub mod cases;
#[path = "../../../host/src/dead_letters/file.rs"]
pub mod file;
#[path = "../../../host/src/dead_letters/headers.rs"]
pub mod headers;
#[path = "../../../host/src/dead_letters/lines.rs"]
pub mod lines;
#[path = "../../../host/src/dead_letters/place.rs"]
pub mod place;
#[path = "../../../host/src/dead_letters/plan.rs"]
pub mod plan;

pub use place::{Entry, Found, Mark, Place, Reached};
