//! The command line: one file a verb.
//!
//! In: arguments. Out: plain text (or one JSON object, with `--json`) on standard output, errors and progress on
//! standard error, and an exit code. A verb reads its arguments, calls the room that does the work, and prints what
//! came of it; it never does the work itself. This is the only room that prints.
//!
//! A verb is a module with `Args` (derives [`clap::Args`]) and `fn run(args: Args) -> Outcome`, both `pub(super)`; it
//! gets a variant in [`Verb`] and a line in [`dispatch`]. A verb that needs an async runtime starts its own.

mod check;
mod compile_plugin;
mod daemon_address;
mod demo;
mod dlq;
mod dlq_case;
mod dlq_export;
mod dlq_list;
mod dlq_redrive;
mod dlq_show;
mod pause;
mod plugin;
mod plugin_build;
mod plugin_inspect;
mod plugin_new;
mod plugin_test;
mod reload;
mod replay;
mod run;
mod seek;
mod status;
mod table;
mod tap;

use std::fmt;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use clap::{ColorChoice, Parser, Subcommand};
use tokio::time::Instant;

/// How long somebody waits in silence.
const PATIENCE: Duration = Duration::from_secs(2);

/// What `pelton --help` says about exit codes; [`Exit`] is the same in code.
const EXIT_CODES: &str = "\
Exit codes:
  0  done, and all is well
  1  it failed, or what was checked is not as it should be
  2  the command line is wrong: an argument that is unknown, missing, or will not do, such as a directory
     that is no project, a file that is not there, a name that is taken, a pipeline that there is not
  3  a service that it needs cannot be reached, and nothing else is wrong
  4  it was told twice to end, and ended at once: what was under way will be repeated

Standard output holds the result alone (with --json: one object); progress and errors go to standard error.";

/// Stream transforms as sandboxed WebAssembly plugins between Kafka and Cassandra
#[derive(Debug, Parser)]
#[command(name = "pelton", version, color = ColorChoice::Never, max_term_width = 100, after_help = EXIT_CODES)]
#[command(arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// See records flow: a shop's events through an embedded broker and a plugin into a table, and a reckoning
    Demo(demo::Args),
    /// Run the pipelines of a project until SIGTERM or SIGINT
    Run(run::Args),
    /// Find every mistake in a project before it runs
    Check(check::Args),
    /// Print what a running daemon is doing: pipelines, partitions, lag, rates, dead letters
    Status(status::Args),
    /// Let a pipeline finish what is under way, commit, and stand still
    Pause(daemon_address::PipelineArgs),
    /// Let a paused pipeline read on
    Resume(daemon_address::PipelineArgs),
    /// Let a paused pipeline go on at another place
    Seek(seek::Args),
    /// Take over plugins and steps that have changed, while records flow
    Reload(reload::ReloadArgs),
    /// Let the generation of a pipeline's steps that was live before be live again
    Rollback(daemon_address::PipelineArgs),
    /// List the generations of a pipeline's steps, and what became of them
    Generations(daemon_address::PipelineArgs),
    /// Read records again, as they were read, beside the daemon
    Replay(replay::Args),
    /// Show live records of a running daemon, before and after each step
    Tap(tap::Args),
    /// Look into dead letters, and send their records through again
    #[command(subcommand)]
    Dlq(dlq::Verb),
    /// Make, build, test and look into plugins
    #[command(subcommand)]
    Plugin(plugin::Verb),
    /// Compile one plugin under limits, from standard input to standard output: `pelton` runs this of itself
    #[command(hide = true)]
    CompilePlugin(compile_plugin::Args),
}

fn dispatch(verb: Verb) -> Outcome {
    match verb {
        Verb::Demo(args) => demo::run(args),
        Verb::Run(args) => run::run(args),
        Verb::Check(args) => check::run(args),
        Verb::Status(args) => status::run(args),
        Verb::Pause(args) => pause::pause(args),
        Verb::Resume(args) => pause::resume(args),
        Verb::Seek(args) => seek::run(args),
        Verb::Reload(args) => reload::reload(args),
        Verb::Rollback(args) => reload::rollback(args),
        Verb::Generations(args) => reload::generations(args),
        Verb::Replay(args) => replay::run(args),
        Verb::Tap(args) => tap::run(args),
        Verb::Dlq(verb) => dlq::run(verb),
        Verb::Plugin(verb) => plugin::run(verb),
        Verb::CompilePlugin(args) => compile_plugin::run(&args),
    }
}

/// How a command ends. The numbers are promised to scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, and all is well.
    Success = 0,
    /// It failed, or what was checked is not as it should be.
    Failed = 1,
    /// The command line is wrong: an argument that is unknown, missing, or will not do.
    Usage = 2,
    /// A service that it needs cannot be reached, and nothing else is wrong.
    Unavailable = 3,
    /// It was told twice to end, and ended at once: what was under way will be repeated.
    AtOnce = 4,
}

/// What a verb gives back: how it ended, or the one error that it could not go on with.
pub type Outcome = Result<Exit, Failure>;

/// An error on its way to a person: what was wrong, where, and what to do. Made from any error by `?`, causes included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    message: String,
    exit: Exit,
}

impl Failure {
    /// Exit code 1.
    #[must_use]
    pub fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), exit: Exit::Failed }
    }

    /// Exit code 2: a mistake on the command line that clap cannot see.
    #[must_use]
    pub fn usage(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), exit: Exit::Usage }
    }

    /// Exit code 3: a service cannot be reached.
    #[must_use]
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self { message: message.to_string(), exit: Exit::Unavailable }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            // Many errors already contain their cause's text.
            let text = error.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        Self { message, exit: Exit::Failed }
    }
}

/// Whether a directory that was given as an argument is none of a project.
fn is_no_project(dir: &Path) -> bool {
    !dir.join("pelton.yaml").is_file()
}

/// The command line as clap knows it: for tests that hold what the papers say against it.
#[must_use]
pub fn command() -> clap::Command {
    <CommandLine as clap::CommandFactory>::command()
}

/// Reads the command line, runs the verb, prints its error.
#[must_use]
pub fn main() -> ExitCode {
    let exit = match dispatch(CommandLine::parse().verb) {
        Ok(exit) => exit,
        Err(failure) => {
            note(format_args!("error: {}", failure.message));
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

/// Prints one line of the result to standard output. Where the reader has gone (`pelton … | head`) the command ends.
pub(crate) fn say(line: impl fmt::Display) {
    if let Err(error) = writeln!(io::stdout(), "{line}") {
        let closed = error.kind() == io::ErrorKind::BrokenPipe;
        if !closed {
            note(format_args!("error: standard output cannot be written: {error}"));
        }
        std::process::exit(if closed { 0 } else { Exit::Failed as i32 });
    }
}

/// Prints a value as one JSON object to standard output.
pub(crate) fn say_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    say(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints one line to standard error: progress, advice, errors. There is nobody to tell where that fails.
pub(crate) fn note(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Reads a project and loads its plugins; where they have to be compiled, which takes its time, it says so.
fn compiling<T>(work: impl FnOnce() -> T) -> T {
    patiently(PATIENCE, ("compiling the plugins", "the plugins are compiled"), &|line| note(line), work)
}

/// Does work that may take its time; where it takes more than somebody waits in silence, says what is under way, and when
/// it is done.
fn patiently<T>(
    patience: Duration,
    (doing, done): (&str, &str),
    tell: &(dyn Fn(String) + Sync),
    work: impl FnOnce() -> T,
) -> T {
    let began = Instant::now();
    let (working, ended) = mpsc::channel::<()>();
    let (outcome, was_told) = std::thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            let is_long = ended.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout);
            if is_long {
                tell(format!("{doing} …"));
            }
            is_long
        });
        let outcome = work();
        drop(working);
        (outcome, waiting.join().unwrap_or_default())
    });
    if was_told {
        tell(format!("{done}, after {:.1} s", began.elapsed().as_secs_f64()));
    }
    outcome
}

/// A size as people read it: `417 B`, `20.5 KiB`, `17.9 MiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 3] = ["KiB", "MiB", "GiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS.get(unit).expect("below the number of units"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent_and_every_verb_is_explained() {
        fn explained(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no explanation", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{}: {} has no help", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(explained);
        }
        let mut command = CommandLine::command();
        command.build();
        explained(&command);
        command.debug_assert();
    }

    #[test]
    fn exit_codes_are_documented() {
        for exit in [Exit::Success, Exit::Failed, Exit::Usage, Exit::Unavailable, Exit::AtOnce] {
            assert!(EXIT_CODES.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }

    #[test]
    fn an_error_tells_its_causes_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read plugin.yaml")]
        struct Outer(#[source] std::io::Error);
        let failure = Failure::from(Outer(std::io::Error::other("disk on fire")));
        assert_eq!(failure.message, "cannot read plugin.yaml: disk on fire");
    }

    #[test]
    fn long_work_says_that_it_is_under_way_and_when_it_is_done() {
        let (said, heard) = mpsc::channel();
        let said = std::sync::Mutex::new(said);
        let tell = |line: String| said.lock().expect("nobody panics").send(line).expect("somebody listens");
        let words = ("working", "the work is done");
        let first = patiently(Duration::ZERO, words, &tell, || heard.recv().expect("it is told while it works"));
        assert_eq!(first, "working …");
        assert!(heard.recv().expect("its end is told").starts_with("the work is done, after "));
        assert_eq!(patiently(Duration::from_secs(3600), words, &tell, || 7), 7);
        assert!(heard.try_recv().is_err(), "short work says nothing");
    }

    #[test]
    fn sizes_read_well() {
        assert_eq!(human_bytes(417), "417 B");
        assert_eq!(human_bytes(20_992), "20.5 KiB");
        assert_eq!(human_bytes(5 << 40), "5120.0 GiB");
    }
}
