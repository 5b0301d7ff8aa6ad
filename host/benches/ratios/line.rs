//! The whole line, from Kafka on: against a poll loop that drops, and against a native program that does the same JSON
//! work; and how cost and memory grow with partitions, plugins and records.

use crate::measure::{Pair, Spread, in_turns_with};
use crate::process::{Run, Side, pipeline};
use crate::report::{Better, Figure};
use crate::topics::Topic;
use crate::{Plan, work};

const DISCARD: &str = "{ discard: true }";

/// Kafka → identity → drop, against a poll loop.
pub(crate) fn drop_all(plan: &Plan) -> Vec<Figure> {
    let topic = Topic::filled("drop", 4, plan.records);
    let ours = || identity(plan, &topic, 1, plan.records);
    let theirs = || Side::native("poll", &[&topic.name]).run(plan.records);
    let rounds = rounds(plan, ours, theirs);
    let name = "Kafka → identity → drop, against a poll loop";
    let wall = pair(&rounds, |run| run.per_second);
    let cpu = pair(&rounds, |run| run.per_cpu_second);
    vec![
        Figure::new("line", name, "records/s", Better::More)
            .pair(&wall)
            .aim(0.8, wall.ratio.median, "of native at least")
            .with("picture", "Kafka → identity → drop, records/s"),
        Figure::new("line", name, "records/CPU-s", Better::More).pair(&cpu),
    ]
}

/// Kafka → JSON → Kafka, against the same program natively.
pub(crate) fn add_cents(plan: &Plan) -> Vec<Figure> {
    let records = plan.records / 2;
    let topic = Topic::filled("json", 4, records);
    let kept = (0..records).filter(|number| work::is_kept(*number)).count() as u64;
    let ours = || {
        let out = Topic::create("json_out", 4);
        let to = format!("{{ kafka: {{ topic: {} }} }}", out.name);
        let text = pipeline(&topic.name, "json", &["cents"], &to, "");
        let run = Side::daemon(&plan.plugins, plan.cache.path(), &[("line".into(), text)]).run(kept);
        assert_eq!(out.count(), kept, "every record, and none twice");
        run
    };
    let native = |program: &str| {
        let out = Topic::create("json_native", 4);
        let run = Side::native(program, &[&topic.name, &out.name]).run(kept);
        assert_eq!(out.count(), kept, "every record, and none twice");
        run
    };
    let rounds = rounds(plan, ours, || native("cents"));
    let name = "Kafka → JSON → Kafka, against rdkafka and serde_json";
    let wall = pair(&rounds, |run| run.per_second);
    let cpu = pair(&rounds, |run| run.per_cpu_second);
    let memory = pair(&rounds, |run| run.peak_bytes / 1_048_576.0);
    let with_id = self::rounds(plan, ours, || native("cents-with-id"));
    let with_id = pair(&with_id, |run| run.per_cpu_second);
    vec![
        Figure::new("line", name, "records/CPU-s", Better::More)
            .pair(&cpu)
            .aim(1.0, cpu.ratio.median, "of native at least")
            .with("picture", "Kafka → JSON → Kafka, records/CPU-s"),
        Figure::new("line", "the same, the native records with an id header too", "records/CPU-s", Better::More)
            .pair(&with_id)
            .with("picture", "the same, both with an id header"),
        Figure::new("line", name, "records/s", Better::More).pair(&wall),
        Figure::new("line", name, "MiB at most", Better::Less).pair(&memory),
    ]
}

/// The daemon, on `steps` identities and a sink that drops.
fn identity(plan: &Plan, topic: &Topic, steps: usize, records: u64) -> Run {
    let text = pipeline(&topic.name, "bytes", &vec!["identity"; steps], DISCARD, "");
    Side::daemon(&plan.plugins, plan.cache.path(), &[("line".into(), text)]).run(records)
}

fn rounds(plan: &Plan, mut ours: impl FnMut() -> Run, mut theirs: impl FnMut() -> Run) -> Vec<(Run, Run)> {
    // The first round finds cold caches, the broker's and ours.
    let all = in_turns_with(plan.rounds + 1, &mut ours, &mut theirs);
    all.into_iter().skip(1).collect()
}

fn pair(rounds: &[(Run, Run)], of: impl Fn(&Run) -> f64) -> Pair {
    Pair::of(&rounds.iter().map(|(ours, theirs)| (of(ours), of(theirs))).collect::<Vec<_>>())
}

/// How cost and memory grow.
pub(crate) fn growth(plan: &Plan) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut note = |name: String, runs: &[Run]| {
        let of = |of: &dyn Fn(&Run) -> f64| Spread::of(runs.iter().map(of).collect());
        figures.push(Figure::new("growth", &name, "CPU ns/record", Better::Less).ours(of(&Run::cpu_ns)));
        let memory = of(&|run| run.peak_bytes / 1_048_576.0);
        figures.push(Figure::new("growth", &name, "MiB at most", Better::Less).ours(memory));
    };
    let repeat = |run: &dyn Fn() -> Run| (0..plan.growth_rounds).map(|_| run()).collect::<Vec<_>>();
    for partitions in &plan.partitions {
        let topic = Topic::filled("partitions", *partitions, plan.growth_records);
        let runs = repeat(&|| identity(plan, &topic, 1, plan.growth_records));
        note(format!("{partitions} partitions, {} records", plan.growth_records), &runs);
    }
    let topic = Topic::filled("plugins", 1, plan.growth_records);
    for steps in &plan.steps {
        let runs = repeat(&|| identity(plan, &topic, *steps, plan.growth_records));
        note(format!("{steps} plugins in a row"), &runs);
    }
    for records in &plan.growth {
        let topic = Topic::filled("records", 4, *records);
        let runs = repeat(&|| identity(plan, &topic, 1, *records));
        note(format!("{records} records, 4 partitions"), &runs);
    }
    figures
}
