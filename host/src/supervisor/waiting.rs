//! What a pipeline waits for, told in the log now and then: for its group, or for an output that takes nothing.
//!
//! In: the pipelines as they stand. Out: a line when a wait begins to be long, one every few seconds while it lasts, and
//! one when it is over. A wait that is over soon is not worth a line.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::snapshot::blocked;
use super::{Pipeline, State, Supervisor};

/// How long a wait lasts before it is told, and how often it is told from then on.
const TOLD_AFTER: Duration = Duration::from_secs(3);
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// The waits of a pipeline, by what is waited for.
#[derive(Debug, Default)]
pub(super) struct Waiting(BTreeMap<String, Wait>);

#[derive(Debug)]
struct Wait {
    since: Instant,
    told: Option<Instant>,
}

/// What is to be told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Lasts { what: String, cause: String, waited: Duration },
    Over { what: String, waited: Duration },
}

impl Waiting {
    /// Takes what is waited for now, with its cause, and answers what is to be told of it.
    fn note(&mut self, now: Instant, waits: Vec<(String, String)>) -> Vec<Told> {
        let mut told = Vec::new();
        self.0.retain(|what, wait| {
            let lasts = waits.iter().any(|(now, _)| now == what);
            if !lasts && wait.told.is_some() {
                told.push(Told::Over { what: what.clone(), waited: now - wait.since });
            }
            lasts
        });
        for (what, cause) in waits {
            let wait = self.0.entry(what.clone()).or_insert(Wait { since: now, told: None });
            let waited = now - wait.since;
            let is_due = wait.told.map_or(waited >= TOLD_AFTER, |told| now - told >= TOLD_EVERY);
            if is_due {
                wait.told = Some(now);
                told.push(Told::Lasts { what, cause, waited });
            }
        }
        told
    }
}

impl Supervisor {
    pub(super) fn tell_what_is_waited_for(&mut self) {
        let now = Instant::now();
        for pipeline in &mut self.pipelines {
            let waits = waits(pipeline);
            for told in pipeline.waiting.note(now, waits) {
                let pipeline = &pipeline.line.name;
                match told {
                    Told::Lasts { what, cause, waited } => {
                        tracing::warn!(%pipeline, "waiting for {what} for {} s: {cause}", waited.as_secs());
                    }
                    Told::Over { what, waited } => {
                        tracing::info!(%pipeline, "no longer waiting for {what}, after {} s", waited.as_secs());
                    }
                }
            }
        }
    }
}

fn waits(pipeline: &Pipeline) -> Vec<(String, String)> {
    let outputs = blocked(&pipeline.line).into_iter();
    let mut waits: Vec<_> = outputs.map(|blocked| (format!("output {}", blocked.output), blocked.cause)).collect();
    if pipeline.state == State::Joining {
        waits.push(("its group".to_owned(), pipeline.source.waits_for()));
    }
    waits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_told_once_it_is_long_then_every_few_seconds_and_at_its_end() {
        let (mut waiting, start) = (Waiting::default(), Instant::now());
        let mut told_at = |ms: u64, causes: &[(&str, &str)]| {
            let waits = causes.iter().map(|(what, cause)| ((*what).to_owned(), (*cause).to_owned())).collect();
            waiting.note(start + Duration::from_millis(ms), waits)
        };
        let lasts = |cause: &str, seconds| {
            let (what, cause) = ("output default".to_owned(), cause.to_owned());
            vec![Told::Lasts { what, cause, waited: Duration::from_secs(seconds) }]
        };
        let away = [("output default", "no host answers")];
        assert_eq!(told_at(0, &away), []);
        assert_eq!(told_at(2_900, &away), []);
        assert_eq!(told_at(3_000, &away), lasts("no host answers", 3));
        assert_eq!(told_at(7_900, &away), []);
        assert_eq!(told_at(8_000, &[("output default", "refused")]), lasts("refused", 8));
        let over = Told::Over { what: "output default".to_owned(), waited: Duration::from_secs(9) };
        assert_eq!(told_at(9_000, &[]), [over]);
        assert_eq!(told_at(9_100, &away), []);
        assert_eq!(told_at(9_200, &[]), [], "nobody was told of it");
    }
}
