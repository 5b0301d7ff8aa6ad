//! Opens the two ends of every pipeline: the only place that knows which vendor stands behind which seam.
//!
//! In: prepared pipelines, the project's connections, and the services that have answered. Out: pipelines that the
//! supervisor can run. Connections are shared: one session a cluster. What answered a moment ago and does not now is
//! waited for as long as the project allows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::{Sampler, StartError, warn};
use crate::cassandra::{CassandraError, CassandraSink};
use crate::clock::Clock;
use crate::config::{
    ConfigErrors, DeadLetterSettings, ErrorSettings, JournalSettings, KafkaConnection, Mask, Output, Pipeline, Poison,
    Problem, Project, TableOutput, Tombstones,
};
use crate::egress::Report;
use crate::kafka::{self, KafkaDeadLetters, KafkaJournal, KafkaRanges, KafkaSink, KafkaSource, SourceOptions};
use crate::pipeline::breaker::Breaker;
use crate::pipeline::compute::Compute;
use crate::pipeline::dead_letter_file::FileDeadLetters;
use crate::pipeline::discard::{DiscardLetters, DiscardSink};
use crate::pipeline::excess::Excess;
use crate::pipeline::gate::Gate;
use crate::pipeline::generation::{Generation, Live, Outlet, Spec};
use crate::pipeline::journal::Journal;
use crate::pipeline::line::{Line, LineOutput};
use crate::pipeline::meters::Meters;
use crate::pipeline::shadow::Shadowing;
use crate::pipeline::tap::Tap;
use crate::pipeline::{DeadLetters, Sink, SourceError, Transform, Wants};
use crate::sqlite::{SqliteError, SqliteJournal, SqliteSink};
use crate::startup::{PreparedPipeline, Services, check_opened_table};
use crate::supervisor::Supervised;
use crate::telemetry::{Metric, Telemetry};

/// Of the memory budget, the share of what sources hold that tasks have not yet taken; the rest is for batches under
/// way, plugins and connections.
const SOURCES_SHARE: f64 = 0.5;
/// Of the memory budget, the share of what the Cassandra outputs have accepted and not yet written.
const SINKS_SHARE: f64 = 0.125;
/// What to do where nobody answers.
const REMEDY: &str = "is it running, and reachable from here? `startup_wait` says how long a start waits";
/// Between two tries to reach a service.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Opens pipelines.
pub(super) struct Connector<'p> {
    pub(super) project: &'p Project,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) telemetry: Telemetry,
    pub(super) compute: Compute,
    pub(super) services: Services,
    /// Until when a service is waited for.
    pub(super) deadline: Instant,
    /// Which generation each pipeline begins with; the first where nothing is said.
    pub(super) numbers: BTreeMap<String, u64>,
}

/// Pipelines that can run.
pub(super) struct Connected {
    pub(super) pipelines: Vec<Supervised>,
    pub(super) samplers: Vec<Sampler>,
}

/// What a line is made for.
pub(super) enum Purpose {
    /// The pipeline itself.
    Live,
    /// Dead letters once more: their write times are known, so there is nothing to keep in the journal or to ask it.
    Redrive,
    /// Reading again what it has read.
    Replay {
        /// The tables that are written, by output.
        tables: BTreeSet<String>,
        /// Kafka outputs and dead letters are written too.
        includes_topics: bool,
    },
}

impl Purpose {
    fn writes(&self, name: &str, output: &Output) -> bool {
        match (self, output) {
            (Self::Live | Self::Redrive, _) => true,
            (Self::Replay { includes_topics, .. }, Output::Kafka(_)) => *includes_topics,
            (Self::Replay { tables, .. }, _) => tables.contains(name),
        }
    }
}

/// What went wrong at one end, and whether waiting may help.
struct Fault {
    /// The key of `pelton.yaml` that is to blame; else it is the pipeline's own.
    shared_key: Option<String>,
    message: String,
    is_transient: bool,
}

impl Connector<'_> {
    /// Opens all pipelines, or none.
    pub(super) async fn all(&self, pipelines: &[PreparedPipeline]) -> Result<Connected, StartError> {
        let mut connected = Connected { pipelines: Vec::new(), samplers: Vec::new() };
        let memory_bytes =
            (self.project.settings.memory_bytes as f64 * SOURCES_SHARE) as usize / pipelines.len().max(1);
        for prepared in pipelines {
            let supervised = self.pipeline(prepared, memory_bytes, &mut connected.samplers).await?;
            connected.pipelines.push(supervised);
        }
        Ok(connected)
    }

    async fn pipeline(
        &self,
        prepared: &PreparedPipeline,
        memory_bytes: usize,
        samplers: &mut Vec<Sampler>,
    ) -> Result<Supervised, StartError> {
        let pipeline = &prepared.pipeline;
        let options = SourceOptions {
            memory_bytes,
            outputs: pipeline.outputs.len(),
            drain: self.project.settings.drain,
            ..SourceOptions::default()
        };
        let source = KafkaSource::new(self.kafka(pipeline, "source.kafka")?, &pipeline.source, options);
        let line = self.line(prepared, &Purpose::Live, samplers).await?;
        samplers.push(source_sampler(&pipeline.name, &source));
        let ranges = KafkaRanges::new(self.kafka(pipeline, "source.kafka")?, &pipeline.source.group);
        Ok(Supervised { line: Arc::new(line), source: Arc::new(source), ranges: Arc::new(ranges) })
    }

    /// Everything of a pipeline but its source.
    pub(super) async fn line(
        &self,
        prepared: &PreparedPipeline,
        purpose: &Purpose,
        samplers: &mut Vec<Sampler>,
    ) -> Result<Line, StartError> {
        let pipeline = &prepared.pipeline;
        let mut outputs = Vec::new();
        for (name, output) in &pipeline.outputs {
            let place = place(name, output);
            let sink = match output {
                Output::Kafka(_) if !purpose.writes(name, output) => {
                    OpenSink::plain(DiscardSink::instead_of(Wants::Records))
                }
                _ => self.reach(pipeline, &place, || self.sink(pipeline, name, output)).await?,
            };
            if let Wants::Cells(columns) = sink.sink.wants() {
                // Cassandra was asked before, and what the files say of a table to make has been told.
                let is_told = !matches!(output, Output::Sqlite(settings) if settings.create.is_none());
                let warnings = check_opened_table(prepared, (name, output), columns, is_told)
                    .map_err(|problem| StartError::Refused(ConfigErrors(vec![self.project.place(problem)])))?;
                warnings.into_iter().for_each(|warning| warn(&self.project.place(warning)));
            }
            samplers.extend(sink.sampler);
            let sink = if purpose.writes(name, output) {
                sink.sink
            } else {
                Arc::new(DiscardSink::instead_of(sink.sink.wants().clone()))
            };
            outputs.push(LineOutput { name: name.clone(), sink });
        }
        let (dead_letters, journal, errors) = match purpose {
            Purpose::Live | Purpose::Redrive => {
                let letters = self.reach(pipeline, dead_letters_place(pipeline), || self.dead_letters(pipeline));
                let letters = letters.await?;
                let journal = match purpose {
                    Purpose::Live => self.reach(pipeline, "journal.kafka.topic", || self.journal(pipeline)).await?,
                    _ => None,
                };
                (letters, journal, pipeline.errors.clone())
            }
            Purpose::Replay { includes_topics, .. } => {
                let letters: Arc<dyn DeadLetters> = if *includes_topics {
                    self.reach(pipeline, dead_letters_place(pipeline), || self.dead_letters(pipeline)).await?
                } else {
                    Arc::new(DiscardLetters)
                };
                // What could not be handled then cannot be handled now: that holds up nothing.
                let errors = ErrorSettings { poison: Poison::DeadLetter, breaker: None, ..pipeline.errors.clone() };
                (letters, None, errors)
            }
        };
        for transform in &prepared.transforms {
            transform.report_requests(requests_of(&self.telemetry, &pipeline.name, transform.name()));
        }
        let tap = Tap::new(self.project.mask.clone());
        let number = self.numbers.get(&pipeline.name).copied().unwrap_or(1);
        let generation = generation(number, prepared, &outputs, &self.project.mask, &tap);
        Ok(Line {
            name: pipeline.name.clone(),
            topics: pipeline.source.topics.clone(),
            live: Live::begin(generation),
            tap,
            shadowing: Shadowing::default(),
            outputs,
            dead_letters,
            compute: self.compute.clone(),
            batch: pipeline.batch,
            breaker: errors.breaker.map(|breaker| Mutex::new(Breaker::new(breaker))),
            errors,
            clock: Arc::clone(&self.clock),
            gate: Gate::default(),
            mask: self.project.mask.clone(),
            meters: Meters::new(&pipeline.name, &self.telemetry),
            timestamp_floor: timestamp_floor(&pipeline.outputs),
            excess: Excess::default(),
            journal,
        })
    }

    /// Counts the requests of a plugin, also of attempts that come to nothing: they were made.
    async fn sink(&self, pipeline: &Pipeline, name: &str, output: &Output) -> Result<OpenSink, Fault> {
        let labels = (pipeline.name.clone(), name.to_owned());
        let settings = &self.project.settings;
        match output {
            Output::Discard => Ok(OpenSink::plain(DiscardSink::default())),
            Output::Kafka(output) => {
                let connection = settings.kafka.as_ref().ok_or_else(|| Fault::missing("kafka"))?;
                Ok(OpenSink::plain(KafkaSink::open(connection, output).await?))
            }
            Output::Sqlite(output) => {
                let path = settings.sqlite.as_ref().ok_or_else(|| Fault::missing("sqlite"))?;
                Ok(OpenSink::plain(SqliteSink::open(path, output, Arc::clone(&self.clock))?))
            }
            Output::Cassandra(output) => {
                let session = self.services.cassandra.as_ref().ok_or_else(|| Fault::missing("cassandra"))?;
                let sink = CassandraSink::open(Arc::clone(session), output, Arc::clone(&self.clock)).await?;
                let sink = sink.within(self.sink_bytes());
                Ok(OpenSink::cassandra(Arc::new(sink), labels))
            }
        }
    }

    /// What each of the project's Cassandra outputs may hold.
    fn sink_bytes(&self) -> usize {
        let outputs = self.project.pipelines.iter().flat_map(|pipeline| pipeline.outputs.values());
        let outputs = outputs.filter(|output| matches!(output, Output::Cassandra(_))).count();
        (self.project.settings.memory_bytes as f64 * SINKS_SHARE) as usize / outputs.max(1)
    }

    async fn dead_letters(&self, pipeline: &Pipeline) -> Result<Arc<dyn DeadLetters>, Fault> {
        match &pipeline.dead_letters {
            DeadLetterSettings::File { path } => Ok(Arc::new(open_file(path)?)),
            DeadLetterSettings::Kafka { topic } => {
                let settings = &self.project.settings;
                let connection = settings.kafka.as_ref().ok_or_else(|| Fault::missing("kafka"))?;
                let spill_dir = &settings.spill_dir;
                Ok(Arc::new(KafkaDeadLetters::open(connection, topic, &pipeline.name, spill_dir).await?))
            }
        }
    }

    /// Where the broker is the embedded one, the journal stands beside the embedded tables, if there are any.
    async fn journal(&self, pipeline: &Pipeline) -> Result<Option<Arc<dyn Journal>>, Fault> {
        let JournalSettings::Kafka { topic } = &pipeline.journal else { return Ok(None) };
        let settings = &self.project.settings;
        let connection = settings.kafka.as_ref().ok_or_else(|| Fault::missing("kafka"))?;
        if !kafka::is_embedded(&connection.brokers) {
            return Ok(Some(Arc::new(KafkaJournal::open(connection, topic, &pipeline.source.group).await?)));
        }
        let Some(path) = &settings.sqlite else { return Ok(None) };
        Ok(Some(Arc::new(SqliteJournal::open(path, &pipeline.name)?)))
    }

    pub(super) fn kafka(&self, pipeline: &Pipeline, place: &str) -> Result<&KafkaConnection, StartError> {
        let refused = || Fault::missing("kafka").told(self.project, pipeline, place);
        self.project.settings.kafka.as_ref().ok_or_else(refused)
    }

    /// Tries until it works, waiting no longer than the project allows.
    async fn reach<T, F: Future<Output = Result<T, Fault>>>(
        &self,
        pipeline: &Pipeline,
        place: &str,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, StartError> {
        loop {
            match attempt().await {
                Ok(open) => return Ok(open),
                Err(fault) if fault.is_transient && Instant::now() + TRY_AGAIN_AFTER < self.deadline => {
                    tracing::warn!(pipeline = %pipeline.name, place, "waiting: {}", fault.message);
                    tokio::time::sleep(TRY_AGAIN_AFTER).await;
                }
                Err(fault) => return Err(fault.told(self.project, pipeline, place)),
            }
        }
    }
}

/// Another generation for a line that runs, or the first column of its tables that would miss what is set.
/// `mask` is of the files that it was read from: they may have other secrets than those that the line began with.
pub(super) fn fit(number: u64, prepared: &PreparedPipeline, line: &Line, mask: &Mask) -> Result<Generation, Problem> {
    for (name, output) in &prepared.pipeline.outputs {
        let open = line.outputs.iter().find(|open| open.name == *name);
        if let Some(Wants::Cells(columns)) = open.map(|open| open.sink.wants()) {
            let is_told = matches!(output, Output::Sqlite(settings) if settings.create.is_some());
            for warning in check_opened_table(prepared, (name, output), columns, is_told)? {
                tracing::warn!("{}", warning.to_string().replace("\n    ", "; "));
            }
        }
    }
    for transform in &prepared.transforms {
        transform.report_requests(requests_of(line.meters.telemetry(), &line.name, transform.name()));
    }
    Ok(generation(number, prepared, &line.outputs, &line.mask.and(mask), &line.tap))
}

/// Counts what a plugin asks others.
fn requests_of(telemetry: &Telemetry, pipeline: &str, plugin: &str) -> Report {
    let (telemetry, pipeline, plugin) = (telemetry.clone(), pipeline.to_owned(), plugin.to_owned());
    Box::new(move |exchange| {
        let labels = [("pipeline", pipeline.as_str()), ("plugin", plugin.as_str()), ("outcome", exchange.outcome)];
        telemetry.count(Metric::HttpRequests, &labels, 1);
        telemetry.observe(Metric::HttpSeconds, &labels[..2], exchange.took.as_secs_f64());
    })
}

/// The steps of a pipeline, fitted to its sinks.
fn generation(number: u64, prepared: &PreparedPipeline, outputs: &[LineOutput], mask: &Mask, tap: &Tap) -> Generation {
    let PreparedPipeline { pipeline, transforms } = prepared;
    let steps: Vec<Arc<dyn Transform>> =
        transforms.iter().map(|transform| Arc::clone(transform) as Arc<dyn Transform>).collect();
    let tombstones: Vec<Tombstones> = pipeline.outputs.values().map(tombstones).collect();
    let outlets = outputs.iter().zip(&tombstones).map(|(output, tombstones)| {
        let LineOutput { name, sink } = output;
        Outlet { name, wants: sink.wants(), tombstones }
    });
    let spec = Spec {
        number,
        format: pipeline.source.format,
        outputs: outlets.collect(),
        configuration: pipeline.digest.short(),
        mask: mask.clone(),
        tap: tap.clone(),
    };
    Generation::new(&steps, spec)
}

/// The key that names where an output leads.
fn place(name: &str, output: &Output) -> String {
    match output {
        Output::Kafka(_) => format!("outputs.{name}.kafka.topic"),
        Output::Sqlite(_) => format!("outputs.{name}.sqlite.table"),
        Output::Cassandra(_) => format!("outputs.{name}.cassandra.table"),
        Output::Discard => format!("outputs.{name}"),
    }
}

fn dead_letters_place(pipeline: &Pipeline) -> &'static str {
    match pipeline.dead_letters {
        DeadLetterSettings::File { .. } => "dead_letters.file",
        DeadLetterSettings::Kafka { .. } => "dead_letters.kafka.topic",
    }
}

/// A sink, and what of it goes into metrics now and then.
struct OpenSink {
    sink: Arc<dyn Sink>,
    sampler: Option<Sampler>,
}

impl OpenSink {
    fn plain(sink: impl Sink + 'static) -> Self {
        Self { sink: Arc::new(sink), sampler: None }
    }

    fn cassandra(sink: Arc<CassandraSink>, (pipeline, output): (String, String)) -> Self {
        let (counted, mut retries) = (Arc::clone(&sink), 0);
        let sampler = move |telemetry: &Telemetry| {
            let snapshot = counted.snapshot();
            let labels = [("pipeline", pipeline.as_str()), ("output", output.as_str())];
            telemetry.gauge(Metric::SinkWindow, &labels, snapshot.window as f64);
            let stage = format!("sink:{output}");
            let labels = [("pipeline", pipeline.as_str()), ("stage", stage.as_str())];
            telemetry.count(Metric::Retries, &labels, snapshot.retries.saturating_sub(retries));
            retries = snapshot.retries;
        };
        Self { sink, sampler: Some(Box::new(sampler)) }
    }
}

fn source_sampler(pipeline: &str, source: &KafkaSource) -> Sampler {
    let (stats, pipeline) = (source.stats(), pipeline.to_owned());
    let (mut misrouted_before, mut lost_before) = (0, BTreeMap::new());
    Box::new(move |telemetry| {
        let (misrouted, lost) = (stats.main_queue_records.get(), stats.lost_by_topic());
        telemetry.count(Metric::Misrouted, &[("pipeline", &pipeline)], misrouted - misrouted_before);
        for (topic, records) in &lost {
            let before = lost_before.get(topic).copied().unwrap_or(0);
            telemetry.count(Metric::LostRecords, &[("pipeline", &pipeline), ("topic", topic)], records - before);
        }
        (misrouted_before, lost_before) = (misrouted, lost);
    })
}

fn open_file(path: &Path) -> Result<FileDeadLetters, Fault> {
    FileDeadLetters::open(path)
        .map_err(|error| Fault::refused(format!("the dead-letter file {} cannot be written: {error}", path.display())))
}

fn tombstones(output: &Output) -> Tombstones {
    match output {
        Output::Cassandra(TableOutput { tombstones, .. }) | Output::Sqlite(TableOutput { tombstones, .. }) => {
            tombstones.clone()
        }
        Output::Kafka(_) | Output::Discard => Tombstones::Skip,
    }
}

/// The clock belongs to the partition: the highest floor of its tables holds for all.
fn timestamp_floor(outputs: &BTreeMap<String, Output>) -> i64 {
    let floor = |output: &Output| match output {
        Output::Cassandra(table) | Output::Sqlite(table) => table.timestamp_floor,
        Output::Kafka(_) | Output::Discard => None,
    };
    outputs.values().filter_map(floor).max().unwrap_or(0)
}

impl Fault {
    fn refused(message: String) -> Self {
        Self { shared_key: None, message, is_transient: false }
    }

    fn missing(connection: &str) -> Self {
        Self::refused(format!("`pelton.yaml` has no `{connection}:`"))
    }

    /// As people are told: with the file, the line and the key that are to blame.
    fn told(self, project: &Project, pipeline: &Pipeline, place: &str) -> StartError {
        let (owner, key) = match self.shared_key {
            Some(key) => (None, key),
            None => (Some(pipeline.name.as_str()), place.to_owned()),
        };
        let remedy = if self.is_transient { REMEDY } else { "" };
        let problem = ConfigErrors(vec![project.place(Problem::by_key(owner, key, self.message, remedy))]);
        if self.is_transient { StartError::Unreachable(problem) } else { StartError::Refused(problem) }
    }
}

impl From<SourceError> for Fault {
    fn from(error: SourceError) -> Self {
        let shared_key = match &error {
            SourceError::Unreachable { .. } => Some("kafka.brokers".to_owned()),
            SourceError::Forbidden { setting, .. } => setting.as_ref().map(|setting| format!("kafka.{setting}")),
            _ => None,
        };
        let is_transient = matches!(error, SourceError::Unreachable { .. });
        Self { shared_key, is_transient, message: error.to_string() }
    }
}

impl From<CassandraError> for Fault {
    fn from(error: CassandraError) -> Self {
        Self { shared_key: error.key(), is_transient: error.is_transient(), message: error.to_string() }
    }
}

impl From<SqliteError> for Fault {
    fn from(error: SqliteError) -> Self {
        Self::refused(error.to_string())
    }
}
