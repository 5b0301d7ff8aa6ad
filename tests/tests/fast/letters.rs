//! `pelton dlq` on a file of letters, without any service.

use std::path::Path;
use std::process::Command;

use pelton::pipeline::DeadLetter;
use pelton::pipeline::dead_letter_file::DeadLetterLine;
use pelton::record::{Offset, TopicPartition, WriteTime};
use pelton_tests::process::{program, repository};

/// A project whose orders go through these steps, with one letter of the second.
fn project(steps: [&str; 2], value: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("a fresh directory");
        std::fs::write(path, text).expect("a fresh file");
    };
    let plugins = repository().join("plugins");
    write(
        "pelton.yaml",
        &format!("kafka: {{ brokers: 127.0.0.1:9 }}\nsqlite: tables.db\nplugin_dirs: [{}]\n", plugins.display()),
    );
    let step = |plugin: &str| match plugin {
        "shop-orders" => {
            "  - plugin: shop-orders\n    config: { vat_percent: 19, alert_above_eur: 1000000000 }\n".to_owned()
        }
        other => format!("  - plugin: {other}\n"),
    };
    write(
        "pipelines/orders.yaml",
        &format!(
            "source:\n  kafka: {{ topics: [in] }}\nsteps:\n{}{}outputs:\n  default: {{ discard: true }}\n  \
             alerts: {{ discard: true }}\n",
            step(steps[0]),
            step(steps[1])
        ),
    );
    let letter = DeadLetter {
        pipeline: "orders".to_owned(),
        source: TopicPartition::new("in", 0),
        offset: Offset(7),
        timestamp_ms: Some(1_000),
        key: Some(b"k".to_vec()),
        value: Some(value.as_bytes().to_vec()),
        headers: Vec::new(),
        stage: format!("transform:{}", steps[1]),
        code: "odd".to_owned(),
        message: "odd".to_owned(),
        backtrace: None,
        logs: Vec::new(),
        digests: Vec::new(),
        attempts: 1,
        write_time: WriteTime(1_000_000),
        partial: false,
        id: "in/0/7/dead-letter".to_owned(),
        redrives: 0,
        at_ms: None,
    };
    let line = serde_json::to_string(&DeadLetterLine::of(&letter)).expect("JSON");
    write("dead-letters/orders.jsonl", &format!("{line}\n"));
    dir
}

/// `pelton dlq to-case`: how it ended, what it said, and the case's input.
fn to_case(dir: &Path) -> (Option<i32>, String, Option<String>) {
    let plugin = dir.join("plugin");
    std::fs::create_dir_all(&plugin).expect("a directory");
    let mut command = Command::new(program("pelton"));
    command.args(["dlq", "to-case", "in/0/7"]).arg(dir).arg("--plugin-dir").arg(&plugin).args(["--name", "odd"]);
    let ran = command.output().expect("pelton runs");
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    (ran.status.code(), said, std::fs::read_to_string(plugin.join("cases/odd/input.jsonl")).ok())
}

const ORDER: &str = r#"{"order_id":"k","kind":"created","ts":1000,"customer":{"id":"c","country":"DE"},"currency":"EUR","amount_cents":500,"items":[{"sku":"A","quantity":1,"price_cents":500}]}"#;

#[test]
fn a_case_of_a_later_step_holds_what_the_earlier_ones_make_of_the_record() {
    let behind = project(["identity", "shop-orders"], ORDER);
    let (code, said, input) = to_case(behind.path());
    assert_eq!(code, Some(0), "{said}");
    let input: serde_json::Value = serde_json::from_str(&input.expect("a case")).expect("one line");
    assert_eq!(input["value"], serde_json::from_str::<serde_json::Value>(ORDER).expect("JSON"));
    assert_eq!((&input["offset"], &input["key"]), (&7.into(), &"k".into()));
    let config = std::fs::read_to_string(behind.path().join("plugin/cases/odd/config.yaml")).expect("a configuration");
    assert!(config.contains("vat_percent"), "that of the step: {config}");

    let before = project(["shop-orders", "identity"], ORDER);
    let (code, said, input) = to_case(before.path());
    assert_eq!(code, Some(0), "{said}");
    let input: serde_json::Value = serde_json::from_str(&input.expect("a case")).expect("one line");
    assert_eq!(input["value"]["country"], "DE", "what the first step has set: {input}");
}

#[test]
fn where_a_later_step_gets_nothing_today_it_is_said_why() {
    let dir = project(["shop-orders", "identity"], &ORDER.replace("\"amount_cents\":500", "\"amount_cents\":-500"));
    let (code, said, input) = to_case(dir.path());
    assert_eq!((code, input), (Some(1), None), "{said}");
    assert!(said.contains("identity is step 2") && said.contains("negative_amount"), "{said}");
}
