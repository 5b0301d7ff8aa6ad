//! The plugin host, as far as it judges answers. The engine's generated types are written out, with the same names: where
//! the interface changes, this does not compile until it follows.

#[path = "bindings.rs"]
pub mod bindings;
#[path = "../../../host/src/plugin/capability.rs"]
pub mod capability;
#[path = "../../../host/src/plugin/check.rs"]
mod check;

pub use capability::Capability;

use crate::pipeline::{Failure, OutRow};
use crate::record::{OutputField, SetColumn};

/// Rows, data, columns and failures of an answer.
pub type Answer = (Vec<OutRow>, Vec<u8>, Vec<SetColumn>, Vec<Failure>);

/// Checks an answer against a batch of `count` rows.
pub fn check(
    output: bindings::types::Output,
    count: u32,
    routes: u32,
    set_fields: &[OutputField],
    output_bytes_max: usize,
) -> Result<Answer, String> {
    let frame = check::Frame { count, routes, set_fields, output_bytes_max, record_bytes: &|row| row as usize * 100 };
    let checked = check::check(output, &frame).map_err(|lie| lie.to_string())?;
    Ok((checked.rows, checked.data, checked.set_fields, checked.failures))
}
