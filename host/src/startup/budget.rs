//! Whether a project's plugins may take more memory than the process may have.
//!
//! In: the steps of all pipelines, how many threads run plugins, and `memory:`. Out: a warning at most: limits are the
//! worst case, and most plugins stay far below theirs. Pure.

use crate::config::{Problem, Step, show_bytes};
use crate::plugin::instances_max;

/// Holds what all instances of all steps may take against the budget. A step has an instance for each thread, and
/// more where instances wait for answers over HTTP.
pub(super) fn of_plugins<'s>(
    steps: impl Iterator<Item = (&'s str, &'s Step)>,
    threads: usize,
    budget_bytes: usize,
) -> Option<Problem> {
    let of_step = |step: &Step| step.limits.memory_bytes.saturating_mul(instances_max(&step.grants, threads));
    let mut steps: Vec<(&str, &Step)> = steps.collect();
    let sum = steps.iter().map(|(_, step)| of_step(step)).fold(0_usize, usize::saturating_add);
    // One that is too large by itself is told by itself.
    if sum <= budget_bytes || steps.iter().any(|(_, step)| step.limits.memory_bytes > budget_bytes) {
        return None;
    }
    // The largest first, in the order of the files.
    steps.sort_by_key(|(_, step)| std::cmp::Reverse(of_step(step)));
    let shown = |bytes: usize| show_bytes(bytes as u64);
    let largest: Vec<String> = steps
        .iter()
        .take(3)
        .map(|(pipeline, step)| {
            let waiting = match instances_max(&step.grants, threads) - threads {
                0 => String::new(),
                waiting => format!(" (and {waiting} times more while it waits for `http`)"),
            };
            format!("`{}` of {pipeline} {}{waiting}", step.plugin, shown(step.limits.memory_bytes))
        })
        .collect();
    let more = if steps.len() > largest.len() { ", …" } else { "" };
    let found = format!(
        "the plugins may take {} together, and the whole process has {}: {}{more}, each on {threads} threads",
        shown(sum),
        shown(budget_bytes),
        largest.join(", ")
    );
    let remedy = format!(
        "write `memory: {}` or more, where the machine has it, or lower `limits: memory:` of the steps",
        shown(sum.div_ceil(MIB).saturating_mul(MIB))
    );
    Some(Problem::by_key(None, "memory", found, remedy).as_warning())
}

const MIB: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;

    #[test]
    fn all_instances_of_all_plugins_count() {
        let step = |plugin: &str, mib: usize| Step {
            plugin: plugin.to_owned(),
            artifact: "x.wasm".into(),
            config: serde_json::Value::Null,
            grants: [].into(),
            limits: Limits { memory_bytes: mib << 20, ..Limits::default() },
        };
        let (small, large) = (step("small", 64), step("large", 256));
        let told = |threads: usize| {
            let steps = [("orders", &small), ("clicks", &large)].into_iter();
            of_plugins(steps, threads, 640 << 20)
        };
        assert_eq!(told(2), None, "just as much");
        let warning = told(3).expect("320 MiB for each of three threads");
        assert!(!warning.is_error());
        assert_eq!(
            warning.found,
            "the plugins may take 960 MiB together, and the whole process has 640 MiB: `large` of clicks 256 MiB, \
             `small` of orders 64 MiB, each on 3 threads"
        );
        assert!(warning.remedy.starts_with("write `memory: 960 MiB` or more"), "{}", warning.remedy);
    }
}
