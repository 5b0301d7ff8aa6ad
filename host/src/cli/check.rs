//! `pelton check`: everything that a start would find wrong, before anything runs.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::{Exit, Outcome, compiling, is_no_project, say, say_json};
use crate::config::{
    self, DeadLetterSettings, Format, Mask, Output, Pipeline, Problem, ProcessEnvironment, Reading, Step,
};
use crate::pipeline::Transform as _;
use crate::plugin::{Capability, Runtime, WasmTransform};
use crate::startup::{self, Loaded};

/// Arguments of `pelton check`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The project directory
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Ask Kafka and Cassandra as well: topics, size limits, tables, types of columns
    #[arg(long)]
    online: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `pelton check`.
pub(super) fn run(args: Args) -> Outcome {
    let reading = config::read(&args.dir, &ProcessEnvironment);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    // Nothing is left behind in a directory that is somebody else's.
    let cache_dir = (!is_no_project(&args.dir)).then_some(reading.settings.cache_dir.as_path());
    let runtime = Runtime::isolated(cache_dir, threads)?;
    let examined = compiling(|| startup::examine(&reading, &runtime));
    let mut problems = examined.problems;
    let mut unreachable = Vec::new();
    if args.online {
        let asking = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let asked = asking.block_on(startup::ask(&reading, &examined.transforms));
        // A client that waits for an answer that will not come must not hold up the end.
        asking.shutdown_background();
        problems.extend(asked.problems);
        unreachable = asked.unreachable;
    }
    // A mistake stays one when the service comes.
    let exit = match (problems.iter().any(Problem::is_error), unreachable.is_empty()) {
        (true, _) if is_no_project(&args.dir) => Exit::Usage,
        (true, _) => Exit::Failed,
        (false, false) => Exit::Unavailable,
        (false, true) => Exit::Success,
    };
    problems.extend(unreachable);
    let mut report = Report::of(&reading, config::ConfigErrors::new(problems).0, &examined.transforms);
    if args.online {
        let broken = reading.drafts.iter().filter(|draft| draft.pipeline.is_none());
        report.not_asked_about = broken.map(|draft| draft.name.clone()).collect();
    }
    if args.json {
        say_json(&report)?;
    } else {
        report.print();
    }
    Ok(exit)
}

/// What was found, and what would run.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    problems: Vec<Problem>,
    /// Pipelines whose mistakes stand before questions to the services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_asked_about: Vec<String>,
    /// The pipelines without a mistake.
    pipelines: Vec<PipelineReport>,
}

#[derive(Debug, Serialize)]
struct PipelineReport {
    name: String,
    file: String,
    topics: Vec<String>,
    group: String,
    format: &'static str,
    steps: Vec<StepReport>,
    outputs: BTreeMap<String, String>,
    dead_letters: String,
    /// Of what decides what is written.
    digest: String,
}

#[derive(Debug, Serialize)]
struct StepReport {
    plugin: String,
    artifact: String,
    digest: String,
    /// Capabilities that the plugin imports.
    asks: Vec<&'static str>,
    grants: Vec<&'static str>,
    /// Granted, and not asked for.
    not_asked: Vec<&'static str>,
    /// Whom it may ask, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<HttpReport>,
    /// A replay of the same records gives the same rows.
    replay_identical: bool,
    routes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct HttpReport {
    hosts: Vec<String>,
    methods: BTreeSet<String>,
    private: Vec<String>,
    #[serde(skip)]
    in_words: String,
}

impl Report {
    fn of(reading: &Reading, problems: Vec<Problem>, transforms: &Loaded) -> Self {
        let is_wrong = |pipeline: &Pipeline| {
            problems.iter().any(|problem| problem.is_error() && problem.pipeline.as_deref() == Some(&pipeline.name))
        };
        let pipelines = reading
            .drafts
            .iter()
            .filter_map(|draft| draft.pipeline.as_ref())
            .filter(|pipeline| !is_wrong(pipeline))
            .map(|pipeline| {
                let loaded = transforms.get(&pipeline.name).map(Vec::as_slice).unwrap_or_default();
                PipelineReport::of(pipeline, loaded, reading)
            })
            .collect();
        Self { ok: !problems.iter().any(Problem::is_error), problems, not_asked_about: Vec::new(), pipelines }
    }

    fn print(&self) {
        for problem in &self.problems {
            say(problem);
        }
        let mistakes = self.problems.iter().filter(|problem| problem.is_error()).count();
        if mistakes > 0 {
            say(format_args!("{mistakes} {}", if mistakes == 1 { "mistake" } else { "mistakes" }));
            if !self.not_asked_about.is_empty() {
                let names = self.not_asked_about.join(", ");
                say(format_args!(
                    "Kafka and Cassandra were not asked about {names}: mend these mistakes, and check again"
                ));
            }
            return;
        }
        for pipeline in &self.pipelines {
            pipeline.print();
        }
        let count = self.pipelines.len();
        say(format_args!("all is well: {count} {}", if count == 1 { "pipeline" } else { "pipelines" }));
    }
}

impl PipelineReport {
    fn of(pipeline: &Pipeline, loaded: &[(usize, Arc<WasmTransform>)], reading: &Reading) -> Self {
        let shown = |path: &std::path::Path| path.strip_prefix(&reading.dir).unwrap_or(path).display().to_string();
        let steps = pipeline
            .steps
            .iter()
            .zip(loaded)
            .map(|(step, (_, transform))| StepReport::of(step, transform, shown(&step.artifact), &reading.mask))
            .collect();
        Self {
            name: pipeline.name.clone(),
            file: pipeline.file.display().to_string(),
            topics: pipeline.source.topics.clone(),
            group: pipeline.source.group.clone(),
            format: match pipeline.source.format {
                Format::Json => "json",
                Format::Bytes => "bytes",
            },
            steps,
            outputs: pipeline.outputs.iter().map(|(name, output)| (name.clone(), destination(output))).collect(),
            dead_letters: match &pipeline.dead_letters {
                DeadLetterSettings::Kafka { topic } => format!("kafka {topic}"),
                DeadLetterSettings::File { path } => format!("file {}", shown(path)),
            },
            digest: pipeline.digest.to_string(),
        }
    }

    fn print(&self) {
        let names: Vec<&str> = self.steps.iter().map(|step| step.plugin.as_str()).collect();
        let steps = if names.is_empty() { "(no step)".to_owned() } else { names.join(" → ") };
        say(format_args!("{}: {} ({}) → {steps}", self.name, self.topics.join(", "), self.format));
        for (name, destination) in &self.outputs {
            say(format_args!("    {name} → {destination}"));
        }
        say(format_args!("    dead letters → {}", self.dead_letters));
        self.steps.iter().for_each(StepReport::print);
    }
}

impl StepReport {
    fn of(step: &Step, transform: &WasmTransform, artifact: String, mask: &Mask) -> Self {
        let names = |capabilities: &[Capability]| capabilities.iter().map(|capability| capability.name()).collect();
        let asked = &transform.description().capabilities;
        let granted: Vec<Capability> = step.grants.capabilities.iter().copied().collect();
        let not_asked: Vec<Capability> = granted.iter().copied().filter(|grant| !asked.contains(grant)).collect();
        let http = step.grants.http.as_ref().map(|http| HttpReport {
            hosts: http.hosts.iter().map(|host| mask.apply(&host.to_string())).collect(),
            methods: http.methods.clone(),
            private: http.private.iter().map(ToString::to_string).collect(),
            in_words: mask.apply(&http.to_string()),
        });
        Self {
            plugin: step.plugin.clone(),
            artifact,
            digest: transform.digest().to_string(),
            asks: names(asked),
            grants: names(&granted),
            not_asked: names(&not_asked),
            http,
            replay_identical: !asked.contains(&Capability::Http),
            routes: transform.subscription().routes.clone(),
        }
    }

    fn print(&self) {
        let Self { plugin, asks, grants, not_asked, .. } = self;
        let listed = |names: &[&str]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        let more = if not_asked.is_empty() { String::new() } else { format!(", not asked for: {}", listed(not_asked)) };
        say(format_args!("    {plugin} asks for {}; granted: {}{more}", listed(asks), listed(grants)));
        if let Some(http) = &self.http {
            say(format_args!("    {plugin} may ask over HTTP: {}", http.in_words));
        }
        if !self.replay_identical {
            say(format_args!(
                "    not replay-identical: {plugin} asks others over HTTP, who may answer otherwise another time"
            ));
        }
    }
}

fn destination(output: &Output) -> String {
    match output {
        Output::Kafka(kafka) => format!("kafka {}", kafka.topic),
        Output::Cassandra(table) => format!("cassandra {}", table.table),
        Output::Sqlite(table) => format!("sqlite {}", table.table),
        Output::Discard => "nowhere".to_owned(),
    }
}
