//! The commented default files, and what a whole project becomes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Document, Findings};
use super::*;
use crate::plugin::Capability;

const SETTINGS: &str = include_str!("default.yaml");
const PIPELINE: &str = include_str!("default_pipeline.yaml");
const PLUGIN: &str = include_str!("default_plugin.yaml");

fn write(dir: &Path, files: &[(&str, &str)]) {
    for (file, text) in files {
        let path = dir.join(file);
        std::fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("a fresh directory");
        std::fs::write(path, text).expect("a fresh file");
    }
}

fn project(files: &[(&str, &str)]) -> (tempfile::TempDir, BTreeMap<String, String>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write(dir.path(), files);
    let tls = dir.path().join("tls");
    write(&tls, &[("ca.pem", ""), ("client.pem", ""), ("client.key", "")]);
    let environment = BTreeMap::from([
        ("KAFKA_PASSWORD".to_owned(), "k-secret".to_owned()),
        ("CASSANDRA_PASSWORD".to_owned(), "c-secret".to_owned()),
        ("TLS_DIR".to_owned(), tls.display().to_string()),
    ]);
    (dir, environment)
}

fn load_files(files: &[(&str, &str)]) -> Result<Project, ConfigErrors> {
    let (dir, environment) = project(files);
    load(dir.path(), &environment)
}

fn defaults() -> Project {
    let files = [
        ("pelton.yaml", SETTINGS),
        ("pipelines/default_pipeline.yaml", PIPELINE),
        ("plugins/shop-orders.wasm", ""),
        ("plugins/shop-orders.yaml", PLUGIN),
    ];
    load_files(&files).unwrap_or_else(|errors| panic!("the default files have mistakes:\n{errors}"))
}

const SMALLEST: [(&str, &str); 3] = [
    ("pelton.yaml", "kafka: { brokers: a:1 }\n"),
    (
        "pipelines/default_pipeline.yaml",
        "source: { kafka: { topics: [t] } }\nsteps: [{ plugin: p }]\noutputs: { default: { discard: true } }\n",
    ),
    ("plugins/p.wasm", ""),
];

/// A key path without names and indices that a file chooses.
fn general(key: &str) -> String {
    let mut general = String::new();
    for (index, part) in key.split('.').enumerate() {
        let part = part.split('[').next().unwrap_or_default();
        let is_name = index == 1 && general == "outputs";
        if !general.is_empty() {
            general.push('.');
        }
        general.push_str(if is_name { "*" } else { part });
    }
    general
}

#[test]
fn the_default_files_explain_every_key() {
    let files = [
        ("pelton.yaml", SETTINGS),
        ("pipelines/default_pipeline.yaml", PIPELINE),
        ("plugins/shop-orders.wasm", ""),
        ("plugins/shop-orders.yaml", PLUGIN),
    ];
    let (dir, environment) = project(&files);
    let findings = Findings::default();
    let mut written = BTreeSet::new();
    for (file, text) in [("pelton.yaml", SETTINGS), ("pipeline", PIPELINE), ("plugin", PLUGIN)] {
        let document = Document::parse(file, None, text.as_bytes(), dir.path(), &environment, &findings);
        drop(document);
        written.extend(findings.positions.borrow().keys(file).map(general));
    }
    let known = load::known_keys(dir.path(), &environment);
    // The other way of saying a thing, explained in a comment.
    let spoken_of = ["dead_letters.file", "source.kafka.start.timestamp"];
    let silent: Vec<_> = known
        .iter()
        .map(|key| general(key))
        .filter(|key| !written.contains(key) && !spoken_of.contains(&key.as_str()))
        .collect();
    assert!(silent.is_empty(), "the default files do not explain {silent:?}");
    assert!(known.len() > 60, "{known:?}");
}

#[test]
fn the_default_files_fit_a_screen() {
    for (line, text) in [SETTINGS, PIPELINE, PLUGIN].iter().flat_map(|text| text.lines()).enumerate() {
        assert!(text.chars().count() <= 120, "line {line}: {text}");
    }
}

#[test]
fn every_key_of_the_default_files_has_a_comment() {
    for text in [SETTINGS, PIPELINE] {
        let mut explained = false;
        for line in text.lines() {
            let content = line.trim_start();
            if content.starts_with('#') || content.is_empty() {
                explained = !content.is_empty();
            } else if line.starts_with(|c: char| c.is_ascii_alphabetic()) {
                let nested = content.trim_end().ends_with(':');
                assert!(explained || nested, "no comment above `{content}`");
            }
        }
    }
}

#[test]
fn the_default_files_show_the_defaults() {
    let shown = defaults();
    let smallest = load_files(&SMALLEST).expect("the smallest project");
    let (a, b) = (&shown.settings, &smallest.settings);
    let inside = |path: &PathBuf, project: &Project| path.strip_prefix(&project.dir).expect("inside").to_owned();
    assert_eq!(a.admin, b.admin);
    assert_eq!(a.memory_bytes, b.memory_bytes);
    assert_eq!(inside(&a.cache_dir, &shown), inside(&b.cache_dir, &smallest));
    assert_eq!(inside(&a.spill_dir, &shown), inside(&b.spill_dir, &smallest));
    assert_eq!(inside(&a.plugin_dirs[0], &shown), inside(&b.plugin_dirs[0], &smallest));
    assert_eq!((a.drain, a.startup_wait), (b.drain, b.startup_wait));
    assert_eq!(a.log, b.log);
    let (a, b) = (&shown.pipelines[0], &smallest.pipelines[0]);
    assert_eq!(a.source.group, b.source.group);
    assert_eq!(
        (a.source.start, a.source.on_lost, a.source.format),
        (b.source.start, b.source.on_lost, b.source.format)
    );
    assert_eq!(a.batch, b.batch);
    assert_eq!(a.errors, b.errors);
    assert_eq!(a.steps[0].limits, b.steps[0].limits);
    assert_eq!(a.steps[0].limits, Limits::default());
    assert_eq!(b.steps[0].grants, Grants::default());
    let mut files = SMALLEST;
    let granted = SMALLEST[1].1.replace("plugin: p", "plugin: p, grants: [http: { hosts: [a.example] }]");
    files[1].1 = &granted;
    let least = load_files(&files).expect("the smallest grant").pipelines.remove(0).steps.remove(0).grants.http;
    let (least, shown) = (least.expect("it is granted"), a.steps[0].grants.http.clone().expect("it is shown"));
    assert_eq!(HttpGrant { hosts: least.hosts.clone(), private: Vec::new(), ..shown }, least);
}

#[test]
fn a_project_holds_what_its_files_say() {
    let project = defaults();
    let kafka = project.settings.kafka.as_ref().expect("a connection");
    assert_eq!(kafka.properties["sasl.password"].expose(), "k-secret");
    let cassandra = project.settings.cassandra.as_ref().expect("a connection");
    assert_eq!(cassandra.contact_points, ["127.0.0.1:9042"]);
    assert!(!format!("{project:?}").contains("-secret"));
    let pipeline = &project.pipelines[0];
    assert_eq!(pipeline.steps[0].config["vat_percent"], 19);
    let Output::Cassandra(table) = &pipeline.outputs["default"] else { panic!("a table") };
    assert_eq!(table.columns["country"], ["customer", "country"]);
    assert_eq!(table.columns["odd"], ["a.b", "c"]);
    assert_eq!(table.ttl, Some(Duration::from_secs(90 * 86_400)));
    assert_eq!(table.timestamp_floor, Some(1_767_225_600_000_000));
    let Output::Sqlite(table) = &pipeline.outputs["archive"] else { panic!("an embedded table") };
    assert_eq!(table.tombstones, Tombstones::Delete { key: vec!["order_id".to_owned()] });
    assert_eq!(table.create.as_ref().expect("create").columns[1], ("total_eur".to_owned(), "real".to_owned()));
    assert_eq!(pipeline.dead_letters, DeadLetterSettings::Kafka { topic: "shop.orders.dlq".to_owned() });
}

#[test]
fn what_is_no_file_is_told_and_never_waited_for() {
    use std::os::unix::fs::symlink;
    let (dir, _) = project(&[("pipelines/fine.yaml", "source: { kafka: { topics: [a] } }\n")]);
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("pelton.yaml")).expect("a fresh directory");
    symlink("nowhere.yaml", path("pipelines/dangling.yaml")).expect("a fresh link");
    symlink("loop.yaml", path("pipelines/loop.yaml")).expect("a fresh link");
    symlink("/dev/zero", path("pipelines/device.yaml")).expect("a fresh link");
    symlink("fine.yaml", path("pipelines/linked.yaml")).expect("a fresh link");
    let told: Vec<_> = read(dir.path(), &BTreeMap::new())
        .problems
        .into_iter()
        .filter(|problem| problem.key.is_empty())
        .map(|problem| format!("{}: {}", problem.file, problem.found))
        .collect();
    let expected = [
        "pelton.yaml: this is a directory",
        "pipelines/dangling.yaml: this link leads to no file",
        "pipelines/device.yaml: this link leads to no file",
        "pipelines/loop.yaml: this link leads to no file",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_value_is_filled_in_from_files_alone_and_from_no_more_than_a_value_can_be() {
    let pipeline = "source: { kafka: { topics: [a] } }\noutputs: { default: { discard: true } }\n";
    let (dir, _) = project(&[
        (
            "pelton.yaml",
            "kafka: { brokers: \"a:1\" }\nmemory: \"${file:/dev/zero}\"\ndrain: \"${file:.}\"\nsqlite: \"${file:big}\"\n",
        ),
        ("pipelines/a.yaml", pipeline),
        ("big", &"x".repeat(5 << 20)),
    ]);
    let problems = read(dir.path(), &BTreeMap::new()).problems;
    let told: Vec<_> = problems.iter().map(|problem| (problem.line, problem.found.as_str())).collect();
    assert_eq!(
        told,
        [
            (2, "the file of `${file:/dev/zero}` cannot be read: it is a device, a pipe or a socket"),
            (3, "the file of `${file:.}` cannot be read: is a directory"),
            (4, "the file of `${file:big}` cannot be read: it is larger than 4 MiB"),
        ]
    );
}

#[test]
fn a_start_is_a_word_or_a_time() {
    for (text, start) in [
        ("latest", Start::Latest),
        ("committed", Start::Committed),
        ("2026-01-01T00:00:00Z", Start::Timestamp(1_767_225_600_000)),
        ("{ timestamp: 2026-01-01T00:00:00.250Z }", Start::Timestamp(1_767_225_600_250)),
    ] {
        let pipeline = format!(
            "source: {{ kafka: {{ topics: [t], start: {text} }} }}\noutputs: {{ default: {{ discard: true }} }}\n"
        );
        let project = load_files(&[("pelton.yaml", "kafka: { brokers: a:1 }\n"), ("pipelines/a.yaml", &pipeline)]);
        assert_eq!(project.expect("valid").pipelines[0].source.start, start);
    }
}

#[test]
fn a_position_is_found_for_a_key_that_stands_in_the_file_and_near_one_that_does_not() {
    let project = load_files(&SMALLEST).expect("valid");
    let file = "pipelines/default_pipeline.yaml";
    assert_eq!(project.positions.locate(file, "steps[0].plugin"), Some((2, 11)));
    assert_eq!(project.positions.locate(file, "steps[0].limits.memory"), Some((2, 9)));
    let problem = project.place(Problem::by_key(Some("default_pipeline"), "outputs.default.cassandra", "x", "y"));
    assert_eq!((problem.line, problem.column), (3, 12));
}

#[test]
fn the_digest_follows_what_is_written_and_nothing_else() {
    let digest = |pipeline: &str| {
        let files = [
            ("pelton.yaml", "kafka: { brokers: a:1 }\ncassandra: { contact_points: [c] }\n"),
            ("pipelines/a.yaml", pipeline),
            ("plugins/p.wasm", ""),
        ];
        load_files(&files).unwrap_or_else(|errors| panic!("{errors}")).pipelines[0].digest
    };
    let base = "source: { kafka: { topics: [t] } }\nsteps: [{ plugin: p, config: { a: 1, b: 2 } }]\noutputs: { default: { cassandra: { table: s.t } } }\n";
    let same = [
        base.replace("a: 1, b: 2", "b: 2, a: 1"),
        base.replace("[t]", "[t], group: g, start: latest"),
        format!("# a comment\n{base}batch: {{ records: 7 }}\n"),
        base.replace("s.t", "s.t, consistency: ALL"),
    ];
    for same in same {
        assert_eq!(digest(&same), digest(base), "{same}");
    }
    let others = [
        base.replace("a: 1", "a: 2"),
        base.replace("s.t", "s.u"),
        base.replace("s.t", "s.t, ttl: 1 d"),
        base.replace("s.t", "s.t, columns: { x: y }"),
        base.replace("s.t", "s.t, tombstones: skip"),
        base.replace("s.t", "s.t, timestamp_floor: 2026-01-01T00:00:00Z"),
        format!("{base}errors: {{ poison: skip }}\n"),
    ];
    let all: BTreeSet<_> = others.iter().map(|other| digest(other)).chain([digest(base)]).collect();
    assert_eq!(all.len(), others.len() + 1);
}

#[test]
fn the_step_decides_over_the_manifest_key_by_key() {
    let step = |step: &str| {
        let pipeline = format!(
            "source: {{ kafka: {{ topics: [t] }} }}\nsteps: [{{ plugin: p{step} }}]\noutputs: {{ default: {{ discard: true }} }}\n"
        );
        let files = [
            ("pelton.yaml", "kafka: { brokers: a:1 }\n"),
            ("pipelines/a.yaml", &pipeline),
            ("plugins/p/p.wasm", ""),
            ("plugins/p/plugin.yaml", "grants: [log, clock]\nlimits: { memory: 16 MiB, log_lines: 7 }\n"),
        ];
        load_files(&files).unwrap_or_else(|errors| panic!("{errors}")).pipelines[0].steps[0].clone()
    };
    let silent = step("");
    assert_eq!(silent.grants, [Capability::Log, Capability::Clock].into());
    assert_eq!((silent.limits.memory_bytes, silent.limits.log_lines), (16 << 20, 7));
    let loud = step(", grants: [], limits: { memory: 32 MiB }");
    assert_eq!(loud.grants, Grants::default());
    assert_eq!((loud.limits.memory_bytes, loud.limits.log_lines), (32 << 20, 7));
}

#[test]
fn a_manifest_and_a_case_are_read_for_themselves() {
    let (dir, environment) = project(&[
        ("plugin.yaml", "grants: [log]\n"),
        ("bad.yaml", "grants: [lug]\nx: 1\n"),
        ("c.yaml", "a: [1, x]\n"),
    ]);
    let good = manifest(&dir.path().join("plugin.yaml"), &environment).expect("valid");
    assert_eq!(good.grants, [Capability::Log].into());
    let bad = manifest(&dir.path().join("bad.yaml"), &environment).expect_err("two mistakes");
    assert_eq!(bad.0.len(), 2);
    assert_eq!(json(&dir.path().join("c.yaml"), &environment).expect("valid"), serde_json::json!({ "a": [1, "x"] }));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(96))]

    /// A file with a slip of the pen is read to its end, whatever the slip.
    #[test]
    fn no_slip_of_the_pen_stops_the_reading(
        at in 0_usize..4000,
        length in 0_usize..40,
        typed in "[ \\t\\n:{}\\[\\],\"'#&*!|>%@`\\-a-z0-9$~]{0,6}",
        in_settings: bool,
    ) {
        let text = if in_settings { SETTINGS } else { PIPELINE };
        let characters: Vec<char> = text.chars().collect();
        let at = at.min(characters.len());
        let slipped: String = characters[..at].iter().copied()
            .chain(typed.chars())
            .chain(characters[(at + length).min(characters.len())..].iter().copied())
            .collect();
        let (settings, pipeline) = if in_settings { (slipped.as_str(), PIPELINE) } else { (SETTINGS, slipped.as_str()) };
        let files = [
            ("pelton.yaml", settings),
            ("pipelines/default_pipeline.yaml", pipeline),
            ("plugins/shop-orders.wasm", ""),
        ];
        let (dir, environment) = project(&files);
        let reading = read(dir.path(), &environment);
        for problem in &reading.problems {
            let lines = if problem.file == "pelton.yaml" { settings } else { pipeline }.lines().count();
            proptest::prop_assert!(problem.line <= lines + 1, "{}", problem);
            proptest::prop_assert!(!problem.to_string().contains("-secret"), "{}", problem);
        }
    }
}
