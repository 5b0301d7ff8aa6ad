//! `pelton plugin …`

use clap::Subcommand;

use super::{Outcome, plugin_build, plugin_inspect};

#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true)]
pub(super) enum Verb {
    /// Compile a Rust plugin to a component
    Build(plugin_build::Args),
    /// Print what a component is: world, interface version, imports (its permission request), digest, size
    Inspect(plugin_inspect::Args),
}

pub(super) fn run(verb: Verb) -> Outcome {
    match verb {
        Verb::Build(args) => plugin_build::run(args),
        Verb::Inspect(args) => plugin_inspect::run(&args),
    }
}
