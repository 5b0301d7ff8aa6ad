//! Cases over a transform in this file: what holds for every plugin needs no WebAssembly.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::pipeline::{Failure, FailureKind, OutOp, OutRow, TransformError, TransformInput, TransformOutput, TrapKind};
use crate::record::{Digest, Field, FieldType, OutputField, Policy, SetColumn};

/// Doubles `n` into `double`; odd numbers are rejected, 100 is deleted, 200 goes to `big`. 13 traps.
#[derive(Default)]
struct Doubler {
    subscription: crate::pipeline::Subscription,
    /// Sins: a count of batches, written into every row.
    counts: bool,
    seen: AtomicU32,
}

impl Doubler {
    fn new(counts: bool) -> Self {
        let path = |name: &str| vec![name.to_owned()];
        let field = Field {
            path: path("n"),
            field_type: FieldType::S64,
            on_missing: Policy::Reject,
            on_mismatch: Policy::Reject,
        };
        let subscription = crate::pipeline::Subscription {
            routes: vec!["big".to_owned()],
            value_fields: vec![field],
            set_fields: vec![OutputField { path: path("double"), field_type: FieldType::S64 }],
            ..Default::default()
        };
        Self { subscription, counts, seen: AtomicU32::new(0) }
    }
}

impl Subject for Doubler {
    fn transform(&self) -> &dyn Transform {
        self
    }

    fn drop_instances(&self) {
        self.seen.store(0, Ordering::SeqCst);
    }
}

impl Transform for Doubler {
    fn name(&self) -> &str {
        "doubler"
    }

    fn digest(&self) -> Digest {
        Digest::of(b"doubler")
    }

    fn subscription(&self) -> &crate::pipeline::Subscription {
        &self.subscription
    }

    fn apply(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        let seen = i64::from(self.seen.fetch_add(1, Ordering::SeqCst));
        let mut output = TransformOutput::default();
        let mut doubles = SetColumn::default();
        let numbers = input.value_fields[0].values.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
        for (row, n) in (0_u32..).zip(numbers) {
            if n == 13 {
                return Err(TransformError::Trap {
                    kind: TrapKind::Trap,
                    message: "unreachable".to_owned(),
                    backtrace: "0: doubler::unlucky".to_owned(),
                    logs: Vec::new(),
                    cpu_ns: 0,
                });
            }
            if n % 2 == 1 {
                let (code, message) = ("odd".to_owned(), format!("{n} is odd"));
                output.failures.push(Failure { row, kind: FailureKind::Reject, code, message });
                continue;
            }
            let op = if n == 100 { OutOp::Delete } else { OutOp::Keep };
            output.rows.push(OutRow { row, op, route: u32::from(n == 200) });
            let double = if self.counts { n * 2 + seen } else { n * 2 };
            doubles.values.extend_from_slice(&double.to_le_bytes());
        }
        output.set_fields = vec![doubles];
        Ok(output)
    }

    fn apply_fresh(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        self.drop_instances();
        self.apply(input)
    }
}

const INPUT: &str = r#"// numbers
{"value": {"n": 2, "name": "Zoë"}, "key": "a"}
{"value": {"n": 3}}

{"value": {"n": "two"}}
{"value_text": "{broken"}
{"value": {"n": 100}}
{"value": {"n": 200}, "headers": {"trace": "x"}, "timestamp_ms": null}
{"value": null}
{"value": {"n": 4}, "topic": "other", "partition": 3}
"#;

const EXPECTED: &str = r#"{"record": 0, "output": "default", "value": {"name": "Zoë", "n": 2, "double": 4.0}}
{"record": 1, "reject": "odd", "message": "3 is odd"}
{"record": 2, "reject": "decode.wrong_type"}
{"record": 3, "reject": "decode.malformed_json"}
{"record": 4, "output": "default", "delete": {"double": 200}}
{"record": 5, "output": "big", "value": {"n": 200, "double": 400}}
{"record": 6, "output": "default", "value": null}
{"record": 7, "output": "default", "value": {"n": 4, "double": 8}}
"#;

struct Plugin(tempfile::TempDir);

impl Plugin {
    fn new(input: &str, expected: Option<&str>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let case = dir.path().join("cases/numbers");
        std::fs::create_dir_all(&case).expect("a directory");
        std::fs::write(case.join("input.jsonl"), input).expect("written");
        if let Some(expected) = expected {
            std::fs::write(case.join("expected.jsonl"), expected).expect("written");
        }
        Self(dir)
    }

    fn expected(&self) -> String {
        std::fs::read_to_string(self.0.path().join("cases/numbers/expected.jsonl")).expect("readable")
    }

    fn run(&self, subject: &Doubler, bless: bool) -> CaseReport {
        let cases = read_all(self.0.path()).expect("readable");
        assert_eq!(cases.len(), 1);
        cases[0].run(subject, bless).expect("runs")
    }
}

#[test]
fn a_case_passes_in_every_way() {
    let report = Plugin::new(INPUT, Some(EXPECTED)).run(&Doubler::new(false), false);
    assert!(report.passed, "{report:#?}");
    assert_eq!(report.records, 8);
    assert_eq!(Way::all().count(), 6);
}

#[test]
fn a_difference_names_record_line_and_path() {
    let wrong = EXPECTED.replace("\"double\": 400", "\"double\": 401, \"extra\": true");
    let report = Plugin::new(INPUT, Some(&wrong)).run(&Doubler::new(false), false);
    let [Problem::Unexpected { differences, .. }] = report.problems.as_slice() else { panic!("{report:#?}") };
    let [difference] = differences.as_slice() else { panic!("{differences:#?}") };
    assert_eq!((difference.record, difference.line), (5, Some(6)));
    assert_eq!(
        difference.paths,
        ["value.double: 401 was expected, 400 was found", "value.extra: true was expected, nothing was found"]
    );
}

#[test]
fn a_missing_and_a_surplus_line_are_differences() {
    let without_first: String = EXPECTED.lines().skip(1).map(|line| format!("{line}\n")).collect();
    let with_another = format!("{without_first}{{\"record\": 9, \"skip\": \"late\"}}\n");
    let report = Plugin::new(INPUT, Some(&with_another)).run(&Doubler::new(false), false);
    let [Problem::Unexpected { differences, .. }] = report.problems.as_slice() else { panic!("{report:#?}") };
    let sizes: Vec<(u64, usize, usize)> =
        differences.iter().map(|found| (found.record, found.expected.len(), found.found.len())).collect();
    assert_eq!(sizes, [(0, 0, 1), (9, 1, 0)]);
}

#[test]
fn hidden_state_shows_as_a_difference_between_runs_and_is_never_blessed() {
    let plugin = Plugin::new(INPUT, None);
    let report = plugin.run(&Doubler::new(true), true);
    assert!(!report.passed);
    assert!(report.problems.iter().all(|problem| matches!(problem, Problem::HiddenState { .. })), "{report:#?}");
    assert!(
        report.problems.iter().any(
            |problem| matches!(problem, Problem::HiddenState { others, .. } if others.iter().any(|way| !way.fresh))
        ),
        "{report:#?}"
    );
    assert!(!plugin.0.path().join("cases/numbers/expected.jsonl").exists());
}

#[test]
fn blessed_output_is_what_the_next_run_expects() {
    let plugin = Plugin::new(INPUT, None);
    let report = plugin.run(&Doubler::new(false), false);
    assert!(matches!(report.problems.as_slice(), [Problem::NothingExpected]), "{report:#?}");
    assert!(plugin.run(&Doubler::new(false), true).passed);
    assert!(plugin.run(&Doubler::new(false), false).passed);
    let first = r#"{"record":0,"output":"default","value":{"n":2,"name":"Zoë","double":4}}"#;
    assert_eq!(plugin.expected().lines().next(), Some(first));
}

#[test]
fn a_trap_fails_the_case_with_its_backtrace() {
    let report = Plugin::new("{\"value\": {\"n\": 13}}\n", Some("")).run(&Doubler::new(false), false);
    let Some(Problem::Failed { message, .. }) = report.problems.first() else { panic!("{report:#?}") };
    assert!(message.contains("record 0") && message.contains("doubler::unlucky"), "{message}");
}

#[test]
fn the_same_failure_at_several_batch_sizes_is_told_once_with_the_record_that_it_was() {
    let input: String = [2, 4, 13, 6].map(|n| format!("{{\"value\": {{\"n\": {n}}}}}\n")).concat();
    let report = Plugin::new(&input, None).run(&Doubler::new(false), true);
    let [Problem::Failed { ways, message }] = report.problems.as_slice() else { panic!("{report:#?}") };
    assert!(message.starts_with("record 2: plugin.trap: unreachable\n"), "{message}");
    assert!(message.contains("log::report_panics()"), "{message}");
    assert_eq!(ways_text(ways), "batch sizes 1, 7, all, on fresh and on reused instances");
    assert!(!report.problems[0].is_about_what_is_expected());
}

#[test]
fn runs_are_named_by_size_and_instances() {
    let ways: Vec<Way> = Way::all().collect();
    for (picked, text) in [
        (vec![0], "batch size all, on fresh instances"),
        (vec![0, 2], "batch sizes 7, all, on fresh instances"),
        (vec![1, 4], "batch size 1, on fresh and on reused instances"),
        (vec![0, 4, 5], "batch size all, on fresh instances; batch sizes 1, 7, on reused instances"),
    ] {
        let ways: Vec<Way> = picked.into_iter().map(|at| ways[at]).collect();
        assert_eq!(ways_text(&ways), text);
    }
}

#[test]
fn mistakes_in_a_case_are_named_with_file_and_line() {
    for (input, words) in [
        ("{\"value\": 1}\n{\"valeu\": 1}\n", "input.jsonl:2: there is no key `valeu`"),
        ("{\"value\": 1, \"value_text\": \"1\"}\n", "input.jsonl:1: the value is given more than once"),
        ("{\"offset\": 4}\n// then\n{\"offset\": 4}\n", "input.jsonl:3: offset 4 comes after 4"),
        ("{\"value_base64\": \"!\"}\n", "input.jsonl:1: `value_base64` is not base64"),
        ("{\"headers\": [[\"a\"]]}\n", "input.jsonl:1: each of `headers` is a pair"),
        ("[1]\n", "input.jsonl:1: a line is a JSON object"),
        ("{\"value\": \n", "input.jsonl:1: each line is a JSON object"),
    ] {
        let plugin = Plugin::new(input, None);
        let text = read_all(plugin.0.path()).expect_err(words).to_string();
        assert!(text.contains(words), "{words:?} is not in {text:?}");
    }
    let plugin = Plugin::new(INPUT, Some("{\"output\": \"default\"}\n"));
    let text = read_all(plugin.0.path()).expect_err("no record").to_string();
    assert!(text.contains("expected.jsonl:1: `record` is missing"), "{text}");
}

#[test]
fn a_plugin_without_cases_is_told_what_a_case_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = read_all(dir.path()).expect_err("no cases").to_string();
    assert!(text.contains("input.jsonl"), "{text}");
}
