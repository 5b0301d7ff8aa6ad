//! `read → plan → read again`: a replay of one pipeline's records, beside the daemon that runs it.
//!
//! In: a project, a pipeline, a range, and where to write. Out: the refusals, or a replay that can run; and what it did.
//! Joins no group, commits nothing. Kafka outputs and dead letters are written only where that is asked for: a topic
//! cannot tell a repeat from a record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;

use super::connect::{Connector, Purpose};
use super::letters::{self, LettersError};
use super::{Ready, StartError, alone, compute_threads};
use crate::cassandra::Cassandra;
use crate::cassandra::creation::creation;
use crate::clock::{Clock, SystemClock};
use crate::config::{ConfigErrors, JournalSettings, Output, Pipeline, Problem, Project};
use crate::dead_letters::plan::line_of;
use crate::dead_letters::rebuilding::Redriven;
use crate::kafka::{KafkaJournal, KafkaRanges};
use crate::pipeline::bounds::{self, Bound, BoundsError};
use crate::pipeline::compute::Compute;
use crate::pipeline::journal::{Journal, JournalError};
use crate::pipeline::line::Line;
use crate::pipeline::meters::Totals;
use crate::pipeline::ranges::Ranges;
use crate::pipeline::replay::{Part, Refusal, ReplayError, ReplayProgress, Wanted, plan};
use crate::pipeline::{SourceError, Transform as _};
use crate::record::{Offset, TopicPartition};
use crate::sqlite::SqliteReader;
use crate::startup::{self, PreparedPipeline};
use crate::telemetry::Telemetry;

/// Ids that a refusal names.
const NAMED_MAX: usize = 5;

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct ReplayOptions {
    /// The pipeline.
    pub pipeline: String,
    /// Where to begin.
    pub from: Vec<String>,
    /// Where to end: before it. The end of the topics where empty.
    pub to: Vec<String>,
    /// Other tables to write to: `TABLE`, or `OUTPUT=TABLE`.
    pub into: Vec<String>,
    /// Today's plugins and configuration, where others wrote the records.
    pub with_current: bool,
    /// Let plugins ask others again, who may answer otherwise.
    pub ask_again: bool,
    /// Kafka outputs and dead letters too.
    pub include_topics: bool,
    /// Without what redrives wrote and the topics do not have.
    pub without_redriven: bool,
}

/// A replay that can run.
pub struct Replay {
    line: Arc<Line>,
    ranges: KafkaRanges,
    parts: Vec<Part>,
    /// Where ranges were meant to end that their partitions end before.
    cut: BTreeMap<TopicPartition, Offset>,
    redriven: Result<Redriven, LettersError>,
    progress: Arc<ReplayProgress>,
    /// The outputs that are written.
    written: BTreeSet<String>,
}

/// Why a replay cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ReplayRefused {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Words(String),
    /// It would not be exact: every reason.
    #[error("this range cannot be read again exactly:\n{}", lines(.0))]
    Inexact(Vec<Refusal>),
    /// The tables or plugins are not as they should be.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Redrives wrote what the topics do not have.
    #[error(
        "this range cannot be rebuilt exactly: {} of its records were redriven with content that is not in the topic, and \
         their rows would be missing ({}); --without-redriven goes on without them, and names them all",
        .0.len(), some(.0)
    )]
    Redriven(Redriven),
    /// Nobody knows what was redriven.
    #[error(
        "what was redriven cannot be told, as the dead letters cannot be read: {0}; --without-redriven goes on without it"
    )]
    Letters(LettersError),
    /// The topics or the journal cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

fn lines(refusals: &[Refusal]) -> String {
    refusals.iter().map(|refusal| format!("  {refusal}")).collect::<Vec<_>>().join("\n")
}

/// The first few ids.
fn some(redriven: &Redriven) -> String {
    let short = |id: &str| id.strip_suffix("/dead-letter").unwrap_or(id).to_owned();
    let named: Vec<String> = redriven.ids().take(NAMED_MAX).map(short).collect();
    let more = redriven.len().saturating_sub(named.len());
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    format!("{}{more}", named.join(", "))
}

impl From<BoundsError> for ReplayRefused {
    fn from(error: BoundsError) -> Self {
        match error {
            BoundsError::Words(words) => Self::Words(words),
            BoundsError::Source(error) => Self::Source(error),
        }
    }
}

impl Replay {
    /// Looks at everything that a replay rests on, and opens what it writes to. To be called inside the I/O runtime.
    ///
    /// # Errors
    /// Where it could not run, or would not be exact.
    pub async fn prepare(ready: &Ready, options: &ReplayOptions) -> Result<Self, ReplayRefused> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let live = &find(ready, &options.pipeline)?.pipeline;
        let (prepared, tables) = into(find(ready, &options.pipeline)?, options)?;
        let pipeline = &prepared.pipeline;
        let compute = Compute::start(compute_threads()).map_err(StartError::Threads)?;
        let project = alone(&ready.project, pipeline);
        let settings = &project.settings;
        let deadline = Instant::now() + settings.startup_wait;
        let (services, absent) = startup::reach(&project, settings.startup_wait).await;
        match (absent.unreachable, absent.refused) {
            (unreachable, refused) if !refused.is_empty() => {
                let all = refused.into_iter().chain(unreachable).collect();
                return Err(StartError::Refused(ConfigErrors(all)).into());
            }
            (unreachable, _) if !unreachable.is_empty() => {
                return Err(StartError::Unreachable(ConfigErrors(unreachable)).into());
            }
            _ => {}
        }
        let (telemetry, clock) = (Telemetry::new(), Arc::clone(&clock));
        let connector = Connector {
            project: &project,
            clock: Arc::clone(&clock),
            telemetry,
            compute,
            services,
            deadline,
            numbers: BTreeMap::new(),
        };
        let connection = connector.kafka(pipeline, "source.kafka")?;
        let JournalSettings::Kafka { topic } = &pipeline.journal else {
            return words(format!(
                "pipeline {} keeps no journal: it writes to no table, or says `journal: off`",
                pipeline.name
            ));
        };
        let group = &pipeline.source.group;
        let journal = KafkaJournal::open_existing(connection, topic, group).await.map_err(|error| match error {
            SourceError::Refused(message) => SourceError::Refused(format!(
                "the pipeline's journal is not there ({message}): it is kept from the first start on, and only what the \
                 pipeline has read since can be read again exactly"
            )),
            other => other,
        })?;
        let ranges = KafkaRanges::new(connection, group);
        let bounds = bounds(&ranges, pipeline, options, clock.now_ms()).await?;
        let is_written =
            |(_, output): &(&String, &Output)| options.include_topics && matches!(output, Output::Kafka(_));
        let topics = pipeline.outputs.iter().filter(is_written).map(|(name, _)| name.clone());
        let written = tables.iter().cloned().chain(topics).collect();
        let purpose = Purpose::Replay { tables, includes_topics: options.include_topics };
        let line = match connector.line(&prepared, &purpose, &mut Vec::new()).await {
            Ok(line) => line,
            Err(StartError::Refused(ConfigErrors(mut problems))) => {
                tell_how_to_make(&mut problems, live, pipeline, &connector).await;
                return Err(StartError::Refused(ConfigErrors(problems)).into());
            }
            Err(error) => return Err(error.into()),
        };
        let live = line.live.get();
        let wanted =
            Wanted { digests: &live.digests, configuration: &live.configuration, may_differ: options.with_current };
        let (mut parts, mut refusals, mut cut) = (Vec::new(), Vec::new(), BTreeMap::new());
        for (partition, (from, to)) in bounds {
            let extent = ranges.extent(&partition).await?;
            let begin = from.offset(&ranges, &partition, &extent).await?;
            let until = to.offset(&ranges, &partition, &extent).await?;
            let range = bounds::range(&partition, (&from, &to), (begin, until), &extent);
            let (range, meant) = range.map_err(ReplayRefused::Words)?;
            cut.extend(meant.map(|meant| (partition.clone(), meant)));
            let pages = journal.read(&partition, None).await?;
            match plan(&partition, range, &extent, pages, wanted) {
                Ok(part) => parts.push(part),
                Err(refusal) => refusals.push(refusal),
            }
        }
        if !refusals.is_empty() {
            return Err(ReplayRefused::Inexact(refusals));
        }
        let redriven = redriven(&project, pipeline, &parts, (wanted, options)).await?;
        Ok(Self { line: Arc::new(line), ranges, parts, cut, redriven, progress: Arc::default(), written })
    }

    /// What redrives wrote in the range, and this does not.
    ///
    /// # Errors
    /// Why that is not known.
    pub fn redriven(&self) -> Result<&Redriven, &LettersError> {
        self.redriven.as_ref()
    }

    /// What will be read.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Where the range of a partition was meant to end, if the partition ends before that.
    #[must_use]
    pub fn meant_end(&self, partition: &TopicPartition) -> Option<Offset> {
        self.cut.get(partition).copied()
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Arc<ReplayProgress> {
        Arc::clone(&self.progress)
    }

    /// Why nothing gets through at the moment, if so.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        self.line.outputs.iter().find_map(|output| output.sink.blocked()).or_else(|| self.line.dead_letters.blocked())
    }

    /// Reads the range again, some partitions at once; all of it is durable or decided when it returns.
    ///
    /// # Errors
    /// Where it could not go on. It can be run again: what it wrote is as exact as the rest would have been.
    pub async fn run(&self) -> Result<Totals, ReplayError> {
        let runs = self.parts.iter().map(|part| part.clone().run(&self.line, &self.ranges, &self.progress));
        futures::stream::iter(runs).buffer_unordered(compute_threads().max(2)).try_collect::<()>().await?;
        let mut totals = self.line.meters.totals();
        totals.rows.retain(|output, _| self.written.contains(output));
        Ok(totals)
    }
}

/// What was redriven of the range, or why that is not known; a table that is rebuilt must not lack it unasked.
async fn redriven(
    project: &Project,
    pipeline: &Pipeline,
    parts: &[Part],
    (wanted, options): (Wanted<'_>, &ReplayOptions),
) -> Result<Result<Redriven, LettersError>, ReplayRefused> {
    let is_read = |partition: &TopicPartition, offset: Offset| {
        parts.iter().any(|part| part.partition == *partition && (part.from..part.until).contains(&offset))
    };
    let line = line_of(wanted.digests, wanted.configuration);
    let redriven = async {
        let place = letters::place(&project.settings, pipeline)?;
        Ok::<_, LettersError>(Redriven::read(&*place, &pipeline.name, is_read, (&line, wanted.may_differ)).await?)
    };
    let must_be_whole = !options.into.is_empty() && !options.without_redriven;
    match redriven.await {
        Ok(redriven) if must_be_whole && !redriven.is_empty() => Err(ReplayRefused::Redriven(redriven)),
        Err(error) if must_be_whole => Err(ReplayRefused::Letters(error)),
        known => Ok(known),
    }
}

fn words<T>(text: String) -> Result<T, ReplayRefused> {
    Err(ReplayRefused::Words(text))
}

fn find<'r>(ready: &'r Ready, name: &str) -> Result<&'r PreparedPipeline, ReplayRefused> {
    ready.pipelines.iter().find(|prepared| prepared.pipeline.name == name).ok_or_else(|| {
        let known: Vec<&str> = ready.pipelines.iter().map(|prepared| prepared.pipeline.name.as_str()).collect();
        ReplayRefused::Words(format!("there is no pipeline `{name}`; there is {}", known.join(", ")))
    })
}

fn table_of(output: &Output) -> Option<&str> {
    match output {
        Output::Cassandra(table) | Output::Sqlite(table) => Some(&table.table),
        Output::Kafka(_) | Output::Discard => None,
    }
}

/// The pipeline with the tables that are meant, and the outputs that are written.
fn into(
    prepared: &PreparedPipeline,
    options: &ReplayOptions,
) -> Result<(PreparedPipeline, BTreeSet<String>), ReplayRefused> {
    let mut prepared = prepared.clone();
    let outputs = &mut prepared.pipeline.outputs;
    let tables: BTreeMap<String, String> =
        outputs.iter().filter_map(|(name, output)| Some((name.clone(), table_of(output)?.to_owned()))).collect();
    let asks = prepared.transforms.iter().find(|transform| transform.slots().is_some());
    if let Some(plugin) = asks.filter(|_| !options.ask_again || options.into.is_empty()) {
        return words(format!(
            "the plugin {} asks others over HTTP, who may answer otherwise than they did: in the live table, two answers \
             would meet at one write time; rebuild another one: --into TABLE --ask-again",
            plugin.name()
        ));
    }
    if options.into.is_empty() {
        if options.with_current {
            return words(
                "--with-current needs --into: in the live table, two versions of a row would meet at one write time"
                    .to_owned(),
            );
        }
        return Ok((prepared, tables.into_keys().collect()));
    }
    let mut written = BTreeSet::new();
    for into in &options.into {
        let (name, table) = match (into.split_once('='), tables.len()) {
            (Some((name, table)), _) => (name.to_owned(), table.to_owned()),
            (None, 1) => (tables.keys().next().cloned().unwrap_or_default(), into.clone()),
            (None, _) => {
                let several: Vec<&str> = tables.keys().map(String::as_str).collect();
                return words(format!(
                    "several outputs are tables ({}): write --into OUTPUT=TABLE",
                    several.join(", ")
                ));
            }
        };
        let Some(live) = tables.get(&name) else {
            let known: Vec<&str> = tables.keys().map(String::as_str).collect();
            return words(format!("no output `{name}` is a table; there is {}", known.join(", ")));
        };
        if *live == table {
            return words(format!("{table} is the pipeline's own table: leave --into out to write there"));
        }
        if let Some(Output::Cassandra(output) | Output::Sqlite(output)) = outputs.get_mut(&name) {
            output.table = table;
        }
        if !written.insert(name.clone()) {
            return words(format!("--into names the output `{name}` twice"));
        }
    }
    Ok((prepared, written))
}

/// By partition: where to begin, where to end.
async fn bounds(
    ranges: &dyn Ranges,
    pipeline: &Pipeline,
    options: &ReplayOptions,
    now_ms: i64,
) -> Result<BTreeMap<TopicPartition, (Bound, Bound)>, ReplayRefused> {
    let read = |texts: &[String]| -> Result<Vec<Bound>, ReplayRefused> {
        texts.iter().map(|text| Bound::parse(text, now_ms).map_err(ReplayRefused::Words)).collect()
    };
    let topics = &pipeline.source.topics;
    let from = bounds::by_partition(ranges, topics, &read(&options.from)?).await?;
    let to = match options.to.as_slice() {
        [] => from.keys().map(|partition| (partition.clone(), Bound::Latest)).collect(),
        to => bounds::by_partition(ranges, topics, &read(to)?).await?,
    };
    // Where one side names partitions, the other may speak for all of them.
    let is_for_all = |bounds: &BTreeMap<_, Bound>| !bounds.values().any(|bound| matches!(bound, Bound::Offset { .. }));
    let (from_all, to_all) = (is_for_all(&from), is_for_all(&to));
    let mut both = BTreeMap::new();
    for (partition, begin) in &from {
        match to.get(partition) {
            Some(end) => drop(both.insert(partition.clone(), (begin.clone(), end.clone()))),
            None if from_all => {}
            None => return words(format!("{partition} has a beginning and no end: say --to for it too")),
        }
    }
    if let Some(partition) = to.keys().find(|partition| !to_all && !from.contains_key(*partition)) {
        return words(format!("{partition} has an end and no beginning: say --from for it too"));
    }
    Ok(both)
}

/// A table to rebuild into has to be there: where it is not, says how to make one like the pipeline's own.
async fn tell_how_to_make(problems: &mut [Problem], live: &Pipeline, copy: &Pipeline, connector: &Connector<'_>) {
    for (name, output) in &copy.outputs {
        let own = live.outputs.get(name).and_then(table_of);
        let Some(own) = own.filter(|own| Some(*own) != table_of(output)) else { continue };
        let (key, remedy) = match output {
            Output::Cassandra(table) => {
                let session = connector.services.cassandra.as_deref();
                (format!("outputs.{name}.cassandra.table"), Some(how_to_make(own, &table.table, session).await))
            }
            Output::Sqlite(_) => (format!("outputs.{name}.sqlite.table"), how_to_create(own, connector)),
            Output::Kafka(_) | Output::Discard => continue,
        };
        for problem in problems.iter_mut().filter(|problem| problem.key == key) {
            problem.remedy = remedy.clone().unwrap_or_default();
        }
    }
}

/// The statement that makes a table like the pipeline's own.
async fn how_to_make(own: &str, table: &str, session: Option<&Cassandra>) -> String {
    let statement = match session {
        Some(session) => creation(session, own, table).await.ok().flatten(),
        None => None,
    };
    match statement {
        Some(statement) => format!("make it with the columns, the key and the options of {own}:\n{statement}"),
        None => format!(
            "make the table that --into names with the columns and the key of {own}: `cqlsh -e 'DESCRIBE TABLE {own}'` \
             prints its CREATE TABLE"
        ),
    }
}

/// The same of an embedded table, which Pelton makes itself where it is told its columns.
fn how_to_create(own: &str, connector: &Connector<'_>) -> Option<String> {
    let file = connector.project.settings.sqlite.as_ref()?;
    let made = SqliteReader::open(file).ok()?.made_as(own).ok()??;
    let columns: Vec<_> = made.columns.iter().map(|(column, kind)| format!("{column}: {kind}")).collect();
    let (columns, key) = (columns.join(", "), made.key.join(", "));
    Some(format!("it is made like {own} where the output says `create: {{ columns: {{ {columns} }}, key: [{key}] }}`"))
}
