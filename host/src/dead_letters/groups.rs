//! Cases in groups: what an operator looks at first.
//!
//! In: cases. Out: a group for each code, stage and version of the plugins, the newest first. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cases::{Case, State};

/// Records that failed in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The pipeline.
    pub pipeline: String,
    /// Why they failed: short and stable.
    pub code: String,
    /// Where: `decode`, `transform:<plugin>`, `encode` or `sink:<output>`.
    pub stage: String,
    /// The plugin that failed them, where one did.
    pub plugin: Option<String>,
    /// The digests of the pipeline's plugins then, short, in order.
    pub digests: Vec<String>,
    /// How many nobody has redriven.
    pub open: u64,
    /// How many were redriven and failed again.
    pub failed_again: u64,
    /// How many were redriven.
    pub redriven: u64,
    /// When the first became a dead letter, milliseconds since the Unix epoch.
    pub first_ms: Option<i64>,
    /// When the last did.
    pub last_ms: Option<i64>,
    /// The id of one of them: the newest, of those that are open if there are any.
    pub example: String,
    /// What was said of it.
    pub message: String,
}

/// Groups cases, the newest group first.
#[must_use]
pub fn groups<'c>(cases: impl IntoIterator<Item = &'c Case>) -> Vec<Group> {
    let mut groups: BTreeMap<_, (Group, (bool, Option<i64>))> = BTreeMap::new();
    for case in cases {
        let letter = &case.letter;
        let key = (&letter.pipeline, &letter.code, &letter.stage, &letter.digests);
        let (group, of_example) = groups.entry(key).or_insert_with(|| (empty(case), (false, None)));
        match case.state() {
            State::Open => group.open += 1,
            State::FailedAgain => group.failed_again += 1,
            State::Redriven => group.redriven += 1,
        }
        let at_ms = case.at_ms();
        group.first_ms = group.first_ms.into_iter().chain(at_ms).min();
        group.last_ms = group.last_ms.max(at_ms);
        let worth = (case.state() != State::Redriven, at_ms);
        if group.example.is_empty() || worth >= *of_example {
            *of_example = worth;
            group.example.clone_from(&letter.id);
            group.message.clone_from(&letter.message);
        }
    }
    let mut groups: Vec<Group> = groups.into_values().map(|(group, _)| group).collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.last_ms));
    groups
}

fn empty(case: &Case) -> Group {
    let letter = &case.letter;
    Group {
        pipeline: letter.pipeline.clone(),
        code: letter.code.clone(),
        stage: letter.stage.clone(),
        plugin: case.plugin().map(str::to_owned),
        digests: letter.digests.clone(),
        open: 0,
        failed_again: 0,
        redriven: 0,
        first_ms: None,
        last_ms: None,
        example: String::new(),
        message: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::cases::tests::{letter, mark};
    use super::*;
    use crate::pipeline::DeadLetter;

    fn case(letter: DeadLetter, is_redriven: bool) -> Case {
        let marks = if is_redriven { vec![mark(&letter, true, "")] } else { Vec::new() };
        Case { letter, at: String::new(), missing: None, bytes: 1, marks }
    }

    #[test]
    fn the_newest_group_comes_first_with_an_example_that_is_open() {
        let json = |offset| DeadLetter {
            code: "decode.json".to_owned(),
            stage: "decode".to_owned(),
            message: format!("broken {offset}"),
            ..letter(offset, "x")
        };
        let newer = DeadLetter { digests: vec!["11ee".to_owned()], ..letter(9, "x") };
        let again = DeadLetter { redrives: 1, ..letter(4, "x") };
        let cases = [
            case(json(1), false),
            case(letter(2, "x"), false),
            case(json(3), true),
            case(again, false),
            case(newer, false),
        ];
        let groups = groups(&cases);
        let told: Vec<_> = groups
            .iter()
            .map(|group| (group.code.as_str(), group.open, group.failed_again, group.redriven, group.example.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("negative_amount", 1, 0, 0, "in/2/9/dead-letter"),
                ("negative_amount", 1, 1, 0, "in/2/4/dead-letter"),
                ("decode.json", 1, 0, 1, "in/2/1/dead-letter"),
            ]
        );
        assert_eq!((groups[2].first_ms, groups[2].last_ms), (Some(5_001), Some(5_003)));
        assert_eq!((groups[2].message.as_str(), groups[2].plugin.as_deref()), ("broken 1", None));
    }
}
