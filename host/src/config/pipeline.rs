//! `pipelines/NAME.yaml`.
//!
//! In: the file, and what `pelton.yaml` gave. Out: a [`Draft`]: every part that is valid, so that what can be checked of
//! a pipeline with a mistake is checked all the same; and the whole [`Pipeline`] where it has none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Document, Findings, Table, Value};
use super::grants;
use super::outputs::{self, Outputs};
use super::plugins;
use super::settings::Mentioned;
use super::shared_tables;
use super::values::{choice, choice_by_meaning, duration, fields, integer, positive, size, timestamp_us, topic};
use super::{
    Breaker, DeadLetterSettings, Environment, ErrorSettings, Format, JournalSettings, KeyedBy, Limits, Manifest,
    OnLost, Output, Pipeline, Poison, Settings, SourceSettings, Start, Step, digest,
};
use crate::pipeline::BatchLimits;

const RECORDS_DEFAULT: usize = 1024;
const BYTES_DEFAULT: usize = 1 << 20;
/// What is there goes at once: while it is under way the next batch gathers, so that batches grow with the load.
const LINGER_DEFAULT: Duration = Duration::ZERO;
const RETRY_ATTEMPTS_DEFAULT: u32 = 5;
const BREAKER_DEFAULT: Breaker = Breaker { percent: 50.0, records: 1000, within: Duration::from_secs(60) };
/// A batch may take this part of a plugin's memory: it is there several times while it is handled.
const BATCH_PART_OF_MEMORY: usize = 8;
/// Kafka's own limit on a topic's name.
const TOPIC_CHARS_MAX: usize = 249;

/// What a pipeline is read against.
pub(super) struct Surroundings<'s> {
    pub(super) dir: &'s Path,
    pub(super) settings: &'s Settings,
    pub(super) mentioned: Mentioned,
    pub(super) environment: &'s dyn Environment,
    pub(super) findings: &'s Findings,
    /// What only one pipeline may have, with the pipeline that has it, and its file and line.
    pub(super) taken: &'s mut BTreeMap<(&'static str, String), (String, String)>,
}

/// The valid parts of a pipeline.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The file's stem.
    pub name: String,
    /// The steps that are valid, with their index in the file.
    pub steps: Vec<(usize, Step)>,
    /// Whether that is all of them.
    pub steps_are_whole: bool,
    /// The outputs, where they could be read; none for one with a mistake in it.
    pub outputs: Option<BTreeMap<String, Option<Output>>>,
    /// `source: format`, where it could be read.
    pub format: Option<Format>,
    /// The pipeline, where all its parts could be read.
    pub pipeline: Option<Pipeline>,
}

/// Reads a pipeline.
pub(super) fn read(document: &Document<'_>, file: &Path, name: &str, around: &mut Surroundings<'_>) -> Draft {
    let mut draft = Draft {
        name: name.to_owned(),
        steps: Vec::new(),
        steps_are_whole: false,
        outputs: None,
        format: None,
        pipeline: None,
    };
    let root = document.root();
    if root.is_broken() || (root.is_null() && document.partial) {
        return draft;
    }
    if root.is_null() {
        root.problem("the file is empty", "write `source:` and `outputs:`, or remove the file");
        return draft;
    }
    root.table("keys with values, like `source:`", |table| {
        let source = table.required("source", "{ kafka: { topics: [shop.orders] } }", |value| {
            value.table("`kafka:` with `topics:`", |table| source(table, name, around))
        });
        let format = source.as_ref().and_then(|source| source.format);
        let batch =
            table.optional("batch", |value| value.table("`records:`, `bytes:`, `linger:`", |t| batch(t, around)));
        let batch =
            batch.unwrap_or(BatchLimits { records: RECORDS_DEFAULT, bytes: BYTES_DEFAULT, linger: LINGER_DEFAULT });
        let steps_value = table.optional("steps", |value| value.items("a list of steps, or `[]`"));
        let steps_are_known = (steps_value.is_some() || !table.has("steps")) && !document.partial;
        let count = steps_value.as_ref().map_or(0, Vec::len);
        draft.steps = steps_value
            .unwrap_or_default()
            .iter()
            .enumerate()
            .filter_map(|(index, value)| Some((index, step(value, &batch, around)?)))
            .collect();
        draft.steps_are_whole = draft.steps.len() == count && steps_are_known;
        let outputs_value = table.get("outputs");
        let outputs = table.required("outputs", "{ default: { kafka: { topic: clean } } }", outputs::read);
        let dead_letters_value = table.get("dead_letters");
        let dead_letters = match &dead_letters_value {
            Some(_) => table.optional("dead_letters", |value| outputs::dead_letters(value, around.dir)),
            None => Some(DeadLetterSettings::File { path: around.dir.join(format!("dead-letters/{name}.jsonl")) }),
        };
        let errors = table
            .optional("errors", |value| value.table("`poison:`, `retry_attempts:`, `breaker:`", errors))
            .unwrap_or(ErrorSettings {
                poison: Poison::DeadLetter,
                retry_attempts: RETRY_ATTEMPTS_DEFAULT,
                breaker: Some(BREAKER_DEFAULT),
            });
        let journal_value = table.get("journal");
        let group = source.as_ref().and_then(|source| source.group.as_deref());
        let journal = match &journal_value {
            Some(_) => table.optional("journal", |value| journal(value, group)),
            None => outputs.as_ref().map(|outputs| journal_default(outputs, group.unwrap_or(name))),
        };
        draft.format = format;
        draft.outputs = outputs.clone();
        if let (Some(value), Some(outputs)) = (&outputs_value, &outputs) {
            check_outputs(value, outputs, count == 0 && steps_are_known, format, around);
            let keyed_by = source.as_ref().map(|source| &source.keyed_by);
            shared_tables::check_pipelines(value, outputs, keyed_by == Some(&KeyedBy::Anything), around);
        }
        let topics = source.as_ref().and_then(|source| source.topics.clone()).unwrap_or_default();
        check_loops(
            &topics,
            outputs_value.as_ref(),
            outputs.as_ref(),
            dead_letters_value.as_ref(),
            dead_letters.as_ref(),
        );
        if let Some(JournalSettings::Kafka { topic }) = &journal {
            check_journal(topic, &topics, outputs.as_ref(), journal_value.as_ref(), &table.value.clone(), around);
        }
        if let (Some(value), Some(DeadLetterSettings::File { path })) = (&dead_letters_value, &dead_letters) {
            let value = value.below(&["file"]).unwrap_or_else(|| value.clone());
            claim("dead-letter file", &path.display().to_string(), &value, around);
        }
        if !draft.steps_are_whole {
            return None;
        }
        let mut source = source?;
        let keyed_by = std::mem::take(&mut source.keyed_by);
        let source = source.whole()?;
        let outputs =
            outputs?.into_iter().map(|(name, output)| Some((name, output?))).collect::<Option<BTreeMap<_, _>>>()?;
        let steps: Vec<Step> = draft.steps.iter().map(|(_, step)| step.clone()).collect();
        let mut pipeline = Pipeline {
            name: name.to_owned(),
            file: file.to_owned(),
            source,
            keyed_by,
            steps,
            outputs,
            dead_letters: dead_letters?,
            journal: journal?,
            batch,
            errors,
            digest: crate::record::Digest([0; 32]),
        };
        pipeline.digest = digest::of(&pipeline);
        draft.pipeline = Some(pipeline);
        Some(())
    });
    draft
}

/// `journal:`
fn journal(value: &Value<'_>, group: Option<&str>) -> Option<JournalSettings> {
    if value.scalar().is_some_and(|text| matches!(text, "off" | "false")) {
        return Some(JournalSettings::Off);
    }
    let example = journal_topic(group.unwrap_or("orders"));
    value
        .table("`off`, or `kafka:` with `topic:`", |table| {
            table.required("kafka", &format!("{{ topic: {example} }}"), |value| {
                value.table("`topic:`", |table| {
                    table.required("topic", &format!("a topic of its own, like `{example}`"), topic)
                })
            })
        })
        .map(|topic| JournalSettings::Kafka { topic })
}

/// Only tables have write times, on which a journal tells.
fn journal_default(outputs: &Outputs, group: &str) -> JournalSettings {
    let is_table = |output: &Option<Output>| matches!(output, Some(Output::Cassandra(_) | Output::Sqlite(_)));
    if outputs.values().any(is_table) {
        JournalSettings::Kafka { topic: journal_topic(group) }
    } else {
        JournalSettings::Off
    }
}

/// A group may have any name, a topic may not.
fn journal_topic(group: &str) -> String {
    const SUFFIX: &str = ".pelton-journal";
    let legal = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let mut topic: String = group.chars().map(legal).take(TOPIC_CHARS_MAX - SUFFIX.len()).collect();
    topic.push_str(SUFFIX);
    topic
}

/// A journal is nobody else's topic.
fn check_journal(
    topic: &str,
    topics: &[String],
    outputs: Option<&Outputs>,
    written: Option<&Value<'_>>,
    root: &Value<'_>,
    around: &mut Surroundings<'_>,
) {
    let Some(at) = written.and_then(|value| value.below(&["kafka", "topic"])) else {
        // Two groups of one name are a mistake of their own.
        let owner = (root.document.pipeline.clone().unwrap_or_default(), root.document.file.clone());
        around.taken.entry(("journal", topic.to_owned())).or_insert(owner);
        return;
    };
    claim("journal", topic, &at, around);
    let is_output = |output: &Option<Output>| matches!(output, Some(Output::Kafka(kafka)) if kafka.topic == topic);
    let is_taken =
        topics.iter().any(|source| source == topic) || outputs.is_some_and(|all| all.values().any(is_output));
    if is_taken {
        let found = format!("{} is also a topic that the pipeline reads or writes to", at.quoted());
        at.problem(found, "let the journal have a topic of its own");
    }
}

/// `source:` as far as it is valid.
struct SourceParts {
    topics: Option<Vec<String>>,
    group: Option<String>,
    start: Start,
    on_lost: OnLost,
    format: Option<Format>,
    keyed_by: KeyedBy,
}

impl SourceParts {
    fn whole(self) -> Option<SourceSettings> {
        Some(SourceSettings {
            topics: self.topics?,
            group: self.group?,
            start: self.start,
            on_lost: self.on_lost,
            format: self.format?,
        })
    }
}

fn source(table: &mut Table<'_>, name: &str, around: &mut Surroundings<'_>) -> Option<SourceParts> {
    let mut parts = SourceParts {
        topics: None,
        group: Some(name.to_owned()),
        start: Start::Earliest,
        on_lost: OnLost::Stop,
        format: Some(Format::Json),
        keyed_by: KeyedBy::Unknown,
    };
    let kafka_value = table.get("kafka");
    table.required("kafka", "{ topics: [shop.orders] }", |value| {
        value.table("`topics:`", |table| {
            parts.topics = table.required("topics", "a list of topics, like `[shop.orders]`", topics);
            let group = table.optional("group", |value| value.text("a consumer group's name"));
            if table.has("group") {
                parts.group = group;
            }
            if let Some(group) = &parts.group {
                let value = table.get("group").unwrap_or_else(|| table.value.clone());
                claim("consumer group", group, &value, around);
            }
            parts.start = table.optional("start", start).unwrap_or(Start::Earliest);
            let on_lost = [("stop", OnLost::Stop), ("continue", OnLost::Continue)];
            let meanings = [("skip", "continue"), ("ignore", "continue"), ("fail", "stop"), ("pause", "stop")];
            parts.on_lost = table
                .optional("on_lost", |value| choice_by_meaning(value, &on_lost, &meanings))
                .unwrap_or(OnLost::Stop);
            Some(())
        })
    });
    if let Some(value) = kafka_value
        && !around.mentioned.kafka
    {
        not_connected(&value, "kafka", "brokers: 127.0.0.1:9092");
    }
    let format = table.optional("format", |value| match value.scalar() {
        Some(word @ ("avro" | "protobuf")) => {
            let remedy = "write `json`, or `bytes` for plugins that parse by themselves";
            value.problem(format!("`{word}` is not read by this version"), remedy);
            None
        }
        _ => choice(value, &[("json", Format::Json), ("bytes", Format::Bytes)]),
    });
    if table.has("format") {
        parts.format = format;
    }
    parts.keyed_by = table.optional("keyed_by", keyed_by).unwrap_or_default();
    Some(parts)
}

fn keyed_by(value: &Value<'_>) -> Option<KeyedBy> {
    const WHAT: &str = "a list of fields, like `[order_id]`, or `anything`";
    if value.scalar() == Some("anything") {
        return Some(KeyedBy::Anything);
    }
    fields(value, WHAT).map(KeyedBy::Fields)
}

fn not_connected(value: &Value<'_>, kind: &str, example: &str) {
    value.document.problem(
        value.key_place,
        &value.path,
        format!("`{kind}:` is used here, but pelton.yaml has no `{kind}:`"),
        format!("write in pelton.yaml: `{kind}: {{ {example} }}`"),
    );
}

fn topics(value: &Value<'_>) -> Option<Vec<String>> {
    if let Some(text) = value.scalar() {
        let here = value.describe();
        let remedy = if value.is_substituted() {
            "write a list: [\"${NAME}\"]".to_owned()
        } else {
            format!("write a list: [{text}]")
        };
        value.problem(format!("found {here}"), remedy);
        return None;
    }
    let mut topics: Vec<String> = Vec::new();
    let items = value.items("a list of topics, like `[shop.orders]`")?;
    if items.is_empty() {
        value.problem("found an empty list", "write at least one topic, like `[shop.orders]`");
        return None;
    }
    let count = items.len();
    for item in items {
        match topic(&item) {
            Some(name) if topics.contains(&name) => {
                item.problem(format!("{} is listed twice", item.quoted()), "remove it");
            }
            Some(name) => topics.push(name),
            None => {}
        }
    }
    (topics.len() == count).then_some(topics)
}

fn start(value: &Value<'_>) -> Option<Start> {
    let at = |value: &Value<'_>| timestamp_us(value).map(|us| Start::Timestamp(us.div_euclid(1000)));
    if value.is_map() {
        return value.table("`timestamp:`", |table| table.required("timestamp", "2026-01-01T00:00:00Z", at));
    }
    if value.scalar().is_some_and(|text| text.starts_with(|c: char| c.is_ascii_digit())) {
        return at(value);
    }
    let words = [("earliest", Start::Earliest), ("latest", Start::Latest), ("committed", Start::Committed)];
    if value.scalar().is_some_and(|text| !words.iter().any(|(word, _)| *word == text)) {
        let here = value.describe();
        value.problem(
            format!("{here} is no place to start"),
            "write `earliest`, `latest`, `committed`, or a time like `2026-01-01T00:00:00Z`",
        );
        return None;
    }
    choice(value, &words)
}

/// Notes that a pipeline has something that only one may have.
fn claim(kind: &'static str, name: &str, value: &Value<'_>, around: &mut Surroundings<'_>) {
    let document = value.document;
    let pipeline = document.pipeline.clone().unwrap_or_default();
    let place = format!("{}:{}", document.file, value.key_place.line);
    match around.taken.get(&(kind, name.to_owned())) {
        // Two files of one name are a mistake of their own.
        Some((first, _)) if *first == pipeline => {}
        Some((_, first)) => {
            let which = if value.is_map() { format!("`{name}`") } else { value.quoted() };
            let found = format!("the {kind} {which} is also that of {first}");
            document.problem(value.key_place, &value.path, found, "give each pipeline its own");
        }
        None => {
            around.taken.insert((kind, name.to_owned()), (pipeline, place));
        }
    }
}

fn batch(table: &mut Table<'_>, around: &Surroundings<'_>) -> Option<BatchLimits> {
    let records = table.optional("records", |value| integer(value, 1..=100_000));
    let bytes = table.optional("bytes", |value| {
        let bytes = size(value, "1 MiB", 1 << 10..=64 << 20)?;
        let memory = around.settings.memory_bytes;
        if bytes > memory / BATCH_PART_OF_MEMORY {
            value.problem(
                format!("a batch of {} does not fit into `memory: {}` of pelton.yaml", show(bytes), show(memory)),
                format!("write at most {}, or raise `memory`", show(memory / BATCH_PART_OF_MEMORY)),
            );
        }
        Some(bytes)
    });
    let linger = table.optional("linger", |value| duration(value, "5 ms", Duration::ZERO..=Duration::from_secs(10)));
    Some(BatchLimits {
        records: records.and_then(|n| usize::try_from(n).ok()).unwrap_or(RECORDS_DEFAULT),
        bytes: bytes.unwrap_or(BYTES_DEFAULT),
        linger: linger.unwrap_or(LINGER_DEFAULT),
    })
}

fn show(bytes: usize) -> String {
    super::units::show_bytes(bytes as u64)
}

fn errors(table: &mut Table<'_>) -> Option<ErrorSettings> {
    let poisons = [("dead-letter", Poison::DeadLetter), ("skip", Poison::Skip), ("stop", Poison::Stop)];
    let meanings = [
        ("drop", "skip"),
        ("discard", "skip"),
        ("ignore", "skip"),
        ("continue", "skip"),
        ("reject", "dead-letter"),
        ("dlq", "dead-letter"),
        ("fail", "stop"),
        ("pause", "stop"),
    ];
    let poison = table.optional("poison", |value| choice_by_meaning(value, &poisons, &meanings));
    let retry_attempts = table.optional("retry_attempts", |value| integer(value, 0..=1000));
    let breaker = match table.get("breaker") {
        None => Some(BREAKER_DEFAULT),
        Some(value) if value.scalar().is_some_and(|text| matches!(text, "off" | "false")) => None,
        Some(_) => Some(
            table
                .optional("breaker", |value| value.table("`off`, or `percent:`, `records:`, `within:`", breaker))
                .unwrap_or(BREAKER_DEFAULT),
        ),
    };
    Some(ErrorSettings {
        poison: poison.unwrap_or(Poison::DeadLetter),
        retry_attempts: retry_attempts.and_then(|n| u32::try_from(n).ok()).unwrap_or(RETRY_ATTEMPTS_DEFAULT),
        breaker,
    })
}

fn breaker(table: &mut Table<'_>) -> Option<Breaker> {
    let percent = table.optional("percent", |value| positive(value, 100.0));
    let records = table.optional("records", |value| integer(value, 1..=1_000_000_000));
    let within = table
        .optional("within", |value| duration(value, "1 min", Duration::from_secs(1)..=Duration::from_secs(86_400)));
    Some(Breaker {
        percent: percent.unwrap_or(BREAKER_DEFAULT.percent),
        records: records.unwrap_or(BREAKER_DEFAULT.records),
        within: within.unwrap_or(BREAKER_DEFAULT.within),
    })
}

fn step(value: &Value<'_>, batch: &BatchLimits, around: &Surroundings<'_>) -> Option<Step> {
    if let Some(text) = value.scalar()
        && !value.is_substituted()
    {
        let here = value.describe();
        value.problem(format!("found {here}"), format!("write `plugin: {text}`"));
        return None;
    }
    value.table("a step, like `plugin: shop-orders`", |table| {
        let plugin = table.required("plugin", "a plugin's name, like `shop-orders`", |value| {
            let reference = value.text("a plugin's name, path (`./x.wasm`) or digest (`sha256:…`)")?;
            match plugins::resolve(&reference, around.dir, &around.settings.plugin_dirs) {
                Ok(artifact) => Some((reference, artifact)),
                Err(_) if value.is_substituted() => {
                    let remedy =
                        "let it be the name of a plugin in a plugin directory, a path (`./x.wasm`), or a digest";
                    value.problem(format!("{} names no plugin that is there", value.quoted()), remedy);
                    None
                }
                Err(error) => {
                    value.problem(error.found, error.remedy);
                    None
                }
            }
        });
        let config = match table.get("config") {
            Some(value) => value.json(),
            None => Some(serde_json::Value::Null),
        };
        let grants = table.optional("grants", grants::of_step);
        let grants_are_written = table.has("grants");
        let limits = table.optional("limits", |value| value.table("limits, like `memory: 64 MiB`", plugins::limits));
        let is_unknown = ["config", "grants", "limits"].iter().any(|key| table.is_unknown(key));
        let (plugin, artifact) = plugin?;
        let manifest = manifest(&artifact, around);
        let limits = limits.unwrap_or_default();
        let mut effective = limits.over(manifest.limits.over(Limits::default()));
        if limits.memory_bytes.is_none() {
            // A plugin's author cannot know the batches that it will get.
            effective.memory_bytes = effective.memory_bytes.max(batch.bytes * BATCH_PART_OF_MEMORY);
        }
        check_limits(table, &effective, batch, around);
        // What the plugin would say of the rest would be about what is not there.
        if is_unknown {
            return None;
        }
        Some(Step {
            plugin,
            artifact,
            config: config?,
            grants: if grants_are_written { grants? } else { manifest.grants.of_itself() },
            limits: effective,
        })
    })
}

fn manifest(artifact: &Path, around: &Surroundings<'_>) -> Manifest {
    plugins::manifest_file(artifact, &around.settings.plugin_dirs).map_or_else(Manifest::default, |file: PathBuf| {
        plugins::read_manifest(&file, around.dir, around.environment, around.findings)
    })
}

/// What limits say about each other, and about the batch.
fn check_limits(table: &mut Table<'_>, limits: &Limits, batch: &BatchLimits, around: &Surroundings<'_>) {
    let value = table.value.clone();
    let place = |key: &str| {
        let path = format!("{}.limits.{key}", value.path);
        let at = around.findings.positions.borrow().locate(&value.document.file, &path);
        let place = at.map_or(value.key_place, |(line, column)| super::yaml::Place { line, column });
        (place, path)
    };
    if batch.bytes > limits.memory_bytes / BATCH_PART_OF_MEMORY {
        let (place, path) = place("memory");
        value.document.problem(
            place,
            &path,
            format!(
                "the plugin has {} of memory, and a batch may have {}: it must be at most an eighth",
                show(limits.memory_bytes),
                show(batch.bytes)
            ),
            format!(
                "write `memory: {}` here, or `batch: {{ bytes: {} }}`",
                show(batch.bytes * BATCH_PART_OF_MEMORY),
                show(limits.memory_bytes / BATCH_PART_OF_MEMORY)
            ),
        );
    }
    if limits.memory_bytes > around.settings.memory_bytes {
        let (place, path) = place("memory");
        value.document.problem(
            place,
            &path,
            format!(
                "the plugin may take {}, and the whole process {}",
                show(limits.memory_bytes),
                show(around.settings.memory_bytes)
            ),
            "lower it, or raise `memory:` in pelton.yaml",
        );
    }
    if limits.wall_per_batch < limits.cpu_per_batch {
        let (place, path) = place("wall_per_batch");
        value.document.problem(
            place,
            &path,
            format!(
                "a batch may take {} of CPU time, but only {} on the clock",
                super::units::show_duration(limits.cpu_per_batch),
                super::units::show_duration(limits.wall_per_batch)
            ),
            "let `wall_per_batch` be far above `cpu_per_batch`",
        );
    }
}

/// What outputs say about the rest of the project.
fn check_outputs(
    value: &Value<'_>,
    outputs: &Outputs,
    no_steps: bool,
    format: Option<Format>,
    around: &Surroundings<'_>,
) {
    shared_tables::check_outputs(value, outputs);
    for (name, at) in value.entries("").unwrap_or_default() {
        if no_steps && name != "default" {
            at.document.problem(
                at.key_place,
                &at.path,
                format!("no step routes to `{name}`: there are no steps"),
                "remove it, or add a step whose plugin routes there",
            );
        }
        for (kind, present, example) in [
            ("kafka", around.mentioned.kafka, "brokers: 127.0.0.1:9092"),
            ("cassandra", around.mentioned.cassandra, "contact_points: [127.0.0.1:9042]"),
        ] {
            if !present && let Some(at) = at.below(&[kind]) {
                not_connected(&at, kind, example);
            }
        }
        if !around.mentioned.sqlite
            && let Some(at) = at.below(&["sqlite"])
        {
            at.document.problem(
                at.key_place,
                &at.path,
                "`sqlite:` is used here, but pelton.yaml names no file for the embedded tables",
                "write in pelton.yaml: `sqlite: tables.db`",
            );
        }
        let is_table = matches!(outputs.get(name), Some(Some(Output::Cassandra(_) | Output::Sqlite(_))));
        if is_table && no_steps && format == Some(Format::Bytes) {
            at.document.problem(
                at.key_place,
                &at.path,
                "a table needs columns, and `format: bytes` without steps gives none",
                "write `format: json` under `source:`, or add a step whose plugin sets columns",
            );
        }
    }
}

/// Topics that would feed the pipeline with what it wrote itself.
fn check_loops(
    topics: &[String],
    outputs_value: Option<&Value<'_>>,
    outputs: Option<&Outputs>,
    dead_letters_value: Option<&Value<'_>>,
    dead_letters: Option<&DeadLetterSettings>,
) {
    let mut written: Vec<(&str, &str)> = Vec::new();
    if let (Some(value), Some(outputs)) = (outputs_value, outputs) {
        for (name, at) in value.entries("").unwrap_or_default() {
            let Some(Some(Output::Kafka(output))) = outputs.get(name) else { continue };
            written.push((output.topic.as_str(), name));
            if let Some(at) = at.below(&["kafka", "topic"])
                && topics.contains(&output.topic)
            {
                let found =
                    format!("the pipeline reads {} and writes to it: it would feed itself for ever", at.quoted());
                at.problem(found, "write to another topic");
            }
        }
    }
    let (Some(value), Some(DeadLetterSettings::Kafka { topic })) = (dead_letters_value, dead_letters) else { return };
    let Some(at) = value.below(&["kafka", "topic"]) else { return };
    if topics.contains(topic) {
        let found = format!("the pipeline reads {}: its dead letters would come back for ever", at.quoted());
        at.problem(found, "write dead letters to another topic");
    }
    if let Some((_, output)) = written.iter().find(|(written, _)| written == topic) {
        let found = format!("{} is also the topic of the output `{output}`", at.quoted());
        at.problem(found, "write dead letters to a topic of their own");
    }
}
