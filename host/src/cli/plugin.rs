//! `pelton plugin …`

use clap::Subcommand;

use super::{Outcome, plugin_build, plugin_inspect, plugin_new, plugin_test};

#[derive(Debug, Subcommand)]
#[command(arg_required_else_help = true)]
pub(super) enum Verb {
    /// Make a Rust plugin that builds, tests and runs as it is
    New(plugin_new::Args),
    /// Compile a Rust plugin to a component
    Build(plugin_build::Args),
    /// Print what a component is: world, interface version, imports (its permission request), digest, size
    Inspect(plugin_inspect::Args),
    /// Run a plugin's cases through the real host
    Test(plugin_test::Args),
}

pub(super) fn run(verb: Verb) -> Outcome {
    match verb {
        Verb::New(args) => plugin_new::run(args),
        Verb::Build(args) => plugin_build::run(args),
        Verb::Inspect(args) => plugin_inspect::run(&args),
        Verb::Test(args) => plugin_test::run(&args),
    }
}
