//! `pelton pause` and `pelton resume`: tell a running daemon to let a pipeline stand still, or to read on.

use super::daemon_address::{DaemonArgs, failure};
use super::{Exit, Failure, Outcome, say, say_json};
use crate::admin::client::{AdminClient, ClientError};
use crate::admin::view::PipelineAnswer;

/// Arguments of both verbs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The pipeline's name: the stem of its file
    pipeline: String,
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// `pelton pause`: returns when what was under way is finished and committed.
pub(super) fn pause(args: Args) -> Outcome {
    run(args, AdminClient::pause)
}

/// `pelton resume`
pub(super) fn resume(args: Args) -> Outcome {
    run(args, AdminClient::resume)
}

fn run(args: Args, ask: impl Fn(&AdminClient, &str) -> Result<PipelineAnswer, ClientError>) -> Result<Exit, Failure> {
    let answer = ask(&args.daemon.client()?, &args.pipeline).map_err(failure)?;
    if args.json {
        say_json(&answer)?;
    } else {
        say(format_args!("{} is {}", answer.pipeline, answer.state));
    }
    Ok(Exit::Success)
}
