//! What it costs to be there: memory of a daemon that has nothing to do, and the time from its start to its first record
//! where the plugin is compiled already.

use std::time::Duration;

use crate::measure::{Pair, Spread, in_turns_with, monotonic_ns};
use crate::process::{Side, pipeline};
use crate::report::{Better, Figure};
use crate::topics::Topic;
use crate::{Plan, work};

/// How long a daemon is left alone before it is looked at.
const REST: Duration = Duration::from_secs(5);
/// The aim, MiB.
const AIM_MIB: f64 = 40.0;
const RECORDS: u64 = 20;

/// Idle memory, and start to first record.
pub(crate) fn measure(plan: &Plan) -> Vec<Figure> {
    let topic = Topic::filled("start", 1, RECORDS);
    let first = (0..RECORDS).find(|number| work::is_kept(*number)).expect("one in ten is dropped");
    let until_first = |start: &dyn Fn(&Topic) -> Side| {
        let out = Topic::create("start_out", 1);
        let reader = Topic::reader(&out.name);
        let began = monotonic_ns();
        let _side = start(&out);
        let message = loop {
            if let Some(message) = reader.poll(Duration::from_secs(1)) {
                break message.expect("a record");
            }
        };
        let took = monotonic_ns() - began;
        use rdkafka::message::Message as _;
        assert_eq!(message.key(), Some(work::key(first).as_bytes()), "the first that is kept");
        took as f64 / 1e6
    };
    let daemon = |out: &Topic| {
        let output = format!("{{ kafka: {{ topic: {} }} }}", out.name);
        let text = pipeline(&topic.name, "json", &["cents"], &output, "");
        Side::daemon(&plan.plugins, plan.cache.path(), &[("line".into(), text)])
    };
    let native = |out: &Topic| Side::native("cents", &[&topic.name, &out.name]);
    let mut ours = || until_first(&daemon);
    let mut theirs = || until_first(&native);
    let rounds = in_turns_with(plan.rounds + 1, &mut ours, &mut theirs);
    let started = Pair::of(&rounds[1..]);

    let idle: Vec<f64> = (0..plan.growth_rounds)
        .map(|_| {
            let (empty, out) = (Topic::create("idle", 1), Topic::create("idle_out", 1));
            let output = format!("{{ kafka: {{ topic: {} }} }}", out.name);
            let text = pipeline(&empty.name, "json", &["cents"], &output, "");
            let side = Side::daemon(&plan.plugins, plan.cache.path(), &[("line".into(), text)]);
            std::thread::sleep(REST);
            side.status_bytes("VmRSS") / 1_048_576.0
        })
        .collect();
    let idle = Spread::of(idle);
    vec![
        Figure::new("idle", "memory of a daemon with one pipeline", "MiB", Better::Less).ours(idle).aim(
            AIM_MIB,
            idle.median,
            "MiB at most",
        ),
        Figure::new("start", "from nothing to the first record out, warm cache", "ms", Better::Less).pair(&started),
    ]
}
