//! The dead letters of a project's pipelines: where they lie, and a line of its own for those that are redriven.
//!
//! In: a project, a pipeline's name, what an operator asks for. Out: places to read, and a redrive that can run. Runs
//! beside the daemon, or without it; joins no group, commits nothing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use futures::FutureExt as _;
use tokio::time::Instant;

use super::connect::{Connector, Purpose};
use super::{Ready, StartError, alone, compute_threads, services_of};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, DeadLetterSettings, Environment, Pipeline, Problem, Settings};
use crate::dead_letters::Place;
use crate::dead_letters::cases::Cases;
use crate::dead_letters::file::FilePlace;
use crate::dead_letters::plan::Planned;
use crate::dead_letters::redriving::{Choice, NotRedriven, RedriveError, Redriving, Report, Request, choose};
use crate::kafka::KafkaPlace;
use crate::pipeline::chain::Chain;
use crate::pipeline::compute::Compute;
use crate::pipeline::encode::Encoder;
use crate::pipeline::meters::Totals;
use crate::pipeline::redrive::Redriver;
use crate::pipeline::{DeadLetter, SourceError, Transform};
use crate::record::{Batch, HeaderIter};
use crate::shell;
use crate::telemetry::Telemetry;

/// A pipeline and the place of its letters.
pub struct Letters {
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Where its letters lie.
    pub place: Arc<dyn Place>,
}

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub enum LettersError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Words(String),
    /// Mistakes in the project's files: as many as stand in the way.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Config(Vec<Problem>),
    /// The plugins or the outputs are not as they should be.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The letters cannot be read.
    #[error(transparent)]
    Place(#[from] SourceError),
}

/// Finds the places of a project's pipelines, or of the one that is named. Loads no plugin: letters can be read while a
/// project is being mended.
///
/// # Errors
/// Where the pipeline is not there, or a mistake in its file hides the place.
pub fn places(dir: &Path, environment: &dyn Environment, name: Option<&str>) -> Result<Vec<Letters>, LettersError> {
    let reading = config::read(dir, environment);
    let is_meant = |of: &str| name.is_none_or(|name| name == of);
    let meant: Vec<_> = reading.drafts.iter().filter(|draft| is_meant(&draft.name)).collect();
    if let (true, Some(name)) = (meant.is_empty(), name) {
        let known: Vec<&str> = reading.drafts.iter().map(|draft| draft.name.as_str()).collect();
        return Err(LettersError::Words(unknown_pipeline(name, &known)));
    }
    let is_in_the_way = |problem: &&Problem| problem.is_error() && problem.pipeline.as_deref().is_none_or(&is_meant);
    if meant.is_empty() || meant.iter().any(|draft| draft.pipeline.is_none()) {
        let problems: Vec<Problem> = reading.problems.iter().filter(is_in_the_way).cloned().collect();
        if problems.is_empty() {
            return Err(LettersError::Words(format!("there are no pipelines in {}", dir.display())));
        }
        return Err(LettersError::Config(problems));
    }
    let pipelines = meant.into_iter().filter_map(|draft| draft.pipeline.clone());
    pipelines.map(|pipeline| Ok(Letters { place: place(&reading.settings, &pipeline)?, pipeline })).collect()
}

fn unknown_pipeline(name: &str, known: &[&str]) -> String {
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    format!("there is no pipeline `{name}`; there is {known}")
}

pub(super) fn place(settings: &Settings, pipeline: &Pipeline) -> Result<Arc<dyn Place>, LettersError> {
    match &pipeline.dead_letters {
        DeadLetterSettings::File { path } => Ok(Arc::new(FilePlace::at(path))),
        DeadLetterSettings::Kafka { topic } => {
            let Some(connection) = &settings.kafka else {
                return Err(LettersError::Words("`pelton.yaml` has no `kafka:`".to_owned()));
            };
            Ok(Arc::new(KafkaPlace::new(connection, topic, &pipeline.source.group, &settings.spill_dir)))
        }
    }
}

/// What a later step of a pipeline gets of a letter's record: what the steps before it make of it, with the plugins and the
/// configuration of now. Asks no service.
///
/// # Errors
/// Where it gets nothing of it: why.
pub fn input_of(ready: &Ready, letter: &DeadLetter, at: usize) -> Result<Vec<DeadLetter>, String> {
    let prepared = ready.pipelines.iter().find(|prepared| prepared.pipeline.name == letter.pipeline);
    let prepared = prepared.ok_or("its pipeline is not there any more")?;
    let transforms: Vec<Arc<dyn Transform>> =
        prepared.transforms.iter().map(|transform| Arc::clone(transform) as Arc<dyn Transform>).collect();
    let set_fields = transforms.iter().map(|transform| transform.subscription().set_fields.clone()).collect();
    let chain = Chain::new(&transforms, Arc::new(Encoder { format: prepared.pipeline.source.format, set_fields }));
    let mut read = Batch::new(letter.source.clone());
    let headers = HeaderIter::new(&letter.headers);
    read.push(letter.offset, letter.timestamp_ms, letter.key.as_deref(), letter.value.as_deref(), headers);
    if let Some(asks) = transforms.iter().take(at).find(|transform| transform.slots().is_some()) {
        return Err(format!(
            "the earlier step `{}` asks others over HTTP, which answer otherwise each time",
            asks.name()
        ));
    }
    let (got, said) = chain.before(at, Arc::new(read)).now_or_never().expect("none of the steps waits")?;
    if let Some(failure) = said.failures.values().next() {
        return Err(format!("{}: {}: {}", failure.stage, failure.code, failure.message));
    }
    if got.is_empty() {
        return Err("an earlier step lets it go".to_owned());
    }
    let part = |part: Option<&[u8]>| part.map(<[u8]>::to_vec);
    let record = |row: usize| DeadLetter {
        timestamp_ms: got.timestamp_ms(row),
        key: part(got.keys.get(row)),
        value: part(got.values.get(row)),
        headers: part(got.headers.get(row)).unwrap_or_default(),
        ..letter.clone()
    };
    Ok((0..got.len()).map(record).collect())
}

/// A redrive that can run.
pub struct Redrive {
    pipeline: String,
    place: Arc<dyn Place>,
    redriver: Redriver,
    request: Request,
    choice: Choice,
    done: AtomicU64,
}

impl Redrive {
    /// Reads the letters, chooses, and opens what is written to. To be called inside the I/O runtime.
    ///
    /// # Errors
    /// Where it could not run.
    pub async fn prepare(ready: &Ready, pipeline: &str, request: Request) -> Result<Self, LettersError> {
        let Ready { project, pipelines, .. } = ready;
        let known: Vec<&str> = pipelines.iter().map(|prepared| prepared.pipeline.name.as_str()).collect();
        let prepared = pipelines.iter().find(|prepared| prepared.pipeline.name == pipeline);
        let prepared = prepared.ok_or_else(|| LettersError::Words(unknown_pipeline(pipeline, &known)))?;
        let place = place(&project.settings, &prepared.pipeline)?;
        let cases = Cases::read(&*place, pipeline, |_| false).await?;
        if let Some(unknown) = request.filter.unknown_code(cases.codes()) {
            return Err(LettersError::Words(unknown));
        }
        let export = format!("`pelton dlq export{}` prints the ids", shell::project(&project.dir));
        let choice = choose(&cases, &request).map_err(|why| LettersError::Words(format!("{why}; {export}")))?;
        let compute = Compute::start(compute_threads()).map_err(StartError::Threads)?;
        let project = alone(project, &prepared.pipeline);
        let deadline = Instant::now() + project.settings.startup_wait;
        let services = services_of(&project, std::slice::from_ref(prepared)).await?;
        let (clock, telemetry) = (Arc::new(SystemClock), Telemetry::new());
        let connector = Connector {
            project: &project,
            clock,
            telemetry,
            compute,
            services,
            deadline,
            numbers: std::collections::BTreeMap::new(),
        };
        let line = connector.line(prepared, &Purpose::Redrive, &mut Vec::new()).await?;
        let (redriver, done) = (Redriver::new(line), AtomicU64::new(0));
        Ok(Self { pipeline: pipeline.to_owned(), place, redriver, request, choice, done })
    }

    /// Where the letters lie.
    #[must_use]
    pub fn place(&self) -> String {
        self.place.name()
    }

    /// What is meant.
    #[must_use]
    pub fn choice(&self) -> &Choice {
        &self.choice
    }

    /// How many records are done.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.done.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Why nothing gets through at the moment, if so.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        let line = self.redriver.line();
        line.outputs.iter().find_map(|output| output.sink.blocked()).or_else(|| line.dead_letters.blocked())
    }

    /// What was written so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.redriver.line().meters.totals()
    }

    /// What would be redriven, and what could not be; writes nothing.
    ///
    /// # Errors
    /// Where the letters cannot be read.
    pub async fn rehearse(&self) -> Result<(Vec<Planned>, Vec<NotRedriven>), SourceError> {
        self.redriving(&SystemClock).rehearse(&self.choice).await
    }

    /// Redrives; each record is durable, or a dead letter again, when it returns.
    ///
    /// # Errors
    /// Where it could not go on. It can be begun again.
    pub async fn run(&self) -> Result<Report, RedriveError> {
        self.redriving(&SystemClock).run(&self.choice).await
    }

    fn redriving<'r>(&'r self, clock: &'r dyn Clock) -> Redriving<'r> {
        let Self { pipeline, place, redriver, request, done, .. } = self;
        Redriving { place: &**place, pipeline, request, redriver, clock, done }
    }
}
