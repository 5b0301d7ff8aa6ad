//! `pelton compile-plugin`: what `pelton` runs of itself to compile a plugin under limits. Not for people.

use std::io::{self, Write as _};

use super::{Exit, Failure, Outcome};
use crate::plugin::compile::{CompileLimits, compile_plugin};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// CPU time of the compiler
    #[arg(long, value_name = "SECONDS")]
    cpu_seconds: u64,
    /// Memory of the compiler
    #[arg(long, value_name = "BYTES")]
    memory_bytes: u64,
    /// Compile for an engine that interrupts nothing
    #[arg(long)]
    trusted: bool,
}

/// Reads a component from standard input and writes its machine code to standard output.
pub(super) fn run(args: &Args) -> Outcome {
    let limits = CompileLimits { cpu_s: args.cpu_seconds, memory_bytes: args.memory_bytes };
    let image = compile_plugin(limits, args.trusted, io::stdin().lock()).map_err(Failure::new)?;
    io::stdout().lock().write_all(&image)?;
    Ok(Exit::Success)
}
