//! `pelton pause` and `pelton resume`: tell a running daemon to let a pipeline stand still, or to read on.

use super::daemon_address::{PipelineArgs, failure};
use super::{Exit, Failure, Outcome, note, say, say_json};
use crate::admin::view::PipelineAnswer;

/// `pelton pause`: returns when what was under way is finished and committed; at the latest after the project's `drain`,
/// and then with exit code 1, as it is not. So it is where the pipeline failed before, and what it had done could not be
/// committed.
pub(super) fn pause(args: PipelineArgs) -> Outcome {
    let answer = args.daemon.client()?.pause(&args.pipeline).map_err(failure)?;
    show(&args, &answer)?;
    if let Some(failed) = &answer.failed {
        note(format_args!("{}: it had failed ({failed}), and stands still when it is opened again", answer.pipeline));
    }
    let Some(left) = left(&answer, &args.daemon.again()) else { return Ok(Exit::Success) };
    note(format_args!("{}: {left}", answer.pipeline));
    Ok(Exit::Failed)
}

/// `pelton resume`
pub(super) fn resume(args: PipelineArgs) -> Outcome {
    let answer = args.daemon.client()?.resume(&args.pipeline).map_err(failure)?;
    show(&args, &answer)?;
    Ok(Exit::Success)
}

fn show(args: &PipelineArgs, answer: &PipelineAnswer) -> Result<(), Failure> {
    if args.json {
        return say_json(answer);
    }
    say(format_args!("{} is {}", answer.pipeline, answer.state));
    Ok(())
}

/// What a pause has not finished in time.
fn left(answer: &PipelineAnswer, daemon: &str) -> Option<String> {
    if answer.failed.is_some() {
        let resume = format!("`pelton resume {}{daemon}`", answer.pipeline);
        return (!answer.committed)
            .then(|| format!("what was done last is not committed, and is read again after {resume}"));
    }
    let what = match (answer.in_flight, answer.committed) {
        (0, true) => return None,
        (0, false) => "what is done is not committed yet".to_owned(),
        (1, _) => "1 record is still under way".to_owned(),
        (count, _) => format!("{count} records are still under way"),
    };
    Some(format!(
        "{what} after the time of `drain:`; it goes on by itself, and nothing more is read: `pelton status{daemon}` shows \
         how far it is, and what holds it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::PipelineState;

    #[test]
    fn what_is_not_finished_in_time_is_told() {
        let paused = |failed: Option<&str>, in_flight, committed| PipelineAnswer {
            pipeline: "orders".into(),
            state: PipelineState::Paused,
            failed: failed.map(str::to_owned),
            in_flight,
            committed,
        };
        let answer = |in_flight, committed| left(&paused(None, in_flight, committed), " shop").unwrap_or_default();
        assert_eq!(answer(0, true), "");
        assert!(answer(0, false).starts_with("what is done is not committed yet after"));
        assert!(answer(1, false).starts_with("1 record is still under way after"));
        assert!(answer(1_024, false).starts_with("1024 records are still under way after"));
        assert!(answer(1, false).contains("`pelton status shop`"));
        assert_eq!(left(&paused(Some("the brokers are away"), 0, true), " shop"), None);
        let again = left(&paused(Some("the brokers are away"), 0, false), " shop").unwrap_or_default();
        assert!(again.contains("read again after `pelton resume orders shop`"), "{again}");
    }
}
