//! A part's way from its plugins to being durable.
//!
//! In: rows for the sinks, and records that failed. Out: acknowledgements, when every row is durable, and every record
//! that failed is among the dead letters. What a sink refuses for good counts with the breaker like any other failure:
//! where that pauses the pipeline, or where no record may be passed over, it is neither acknowledged nor made a dead
//! letter before the pipeline is resumed, and comes again where the task is stopped first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::future::join_all;
use tokio::time::Instant;

use super::chain::{RecordFailure, Run};
use super::gate::PausedBy;
use super::generation::Generation;
use super::line::Stamped;
use super::masking::mask_failure;
use super::shared::{Flow, Shared};
use super::transforming::Work;
use super::{DeadLetter, Pending, RowFailure};
use crate::config::Poison;
use crate::record::{Offset, SinkBatch};

/// A part under way: rows that their sinks have accepted, and records that failed.
pub(super) struct Writing {
    accepted: Vec<Accepted>,
    letters: Vec<DeadLetter>,
    outputs: Outputs,
}

/// What has to become durable.
struct Outputs {
    shared: Arc<Shared>,
    stamped: Arc<Stamped>,
    generation: Arc<Generation>,
    /// By origin: how many outputs it has, rows and dead letters; one for each record of the batch.
    by_origin: Vec<u32>,
}

/// Rows that a sink has accepted.
struct Accepted {
    output: usize,
    /// The origin of each row.
    origins: Vec<u32>,
    began: Instant,
    answer: Pending,
}

/// Records of which sinks refused rows for good, by origin.
type Refused = BTreeMap<u32, Refusal>;

struct Refusal {
    failure: RecordFailure,
    /// Who refused, and how many rows in all.
    outputs: BTreeSet<usize>,
    rows: u32,
}

impl Writing {
    /// Hands rows to the sinks, in order; waits where one is full.
    pub(super) async fn begin(
        shared: &Arc<Shared>,
        work: Work<'_>,
        batches: Vec<(usize, SinkBatch)>,
        failures: BTreeMap<u32, RecordFailure>,
    ) -> Self {
        let (stamped, generation) = (Arc::clone(work.stamped), Arc::clone(work.generation));
        let mut by_origin = vec![0; stamped.source.len()];
        let rows = batches.iter().flat_map(|(_, batch)| batch.rows.iter().map(|row| row.origin));
        for origin in failures.keys().copied().chain(rows) {
            by_origin[origin as usize] += 1;
        }
        let outputs = Outputs { shared: Arc::clone(shared), stamped, generation, by_origin };
        let letters = failures.into_iter().map(|(origin, failure)| outputs.letter(origin, failure, false)).collect();
        let accepted = accept(shared, batches).await;
        Self { accepted, letters, outputs }
    }

    /// How many outputs the record of a row has, which have to become durable.
    pub(super) fn outputs_of(&self, row: usize) -> u32 {
        self.outputs.of(row as u32)
    }

    /// Waits until everything is durable, and acknowledges it.
    pub(super) async fn end(self) {
        let Self { accepted, letters, outputs } = self;
        let shared = &outputs.shared;
        let (refused, ()) = tokio::join!(answers(shared, accepted), dead_letters(shared, letters));
        outputs.acknowledge(|origin| !refused.contains_key(&origin));
        if refused.is_empty() {
            return;
        }
        let origins: BTreeSet<u32> = refused.keys().copied().collect();
        if outputs.settle(refused).await == Flow::GoOn {
            outputs.acknowledge(|origin| origins.contains(&origin));
        }
    }
}

impl Outputs {
    fn of(&self, origin: u32) -> u32 {
        self.by_origin[origin as usize]
    }

    fn acknowledge(&self, which: impl Fn(u32) -> bool) {
        let offsets = self.stamped.source.offsets.iter().map(|offset| Offset(*offset));
        let outputs = (0..).zip(offsets.zip(self.by_origin.iter().copied()));
        let which = |(origin, (_, outputs)): &(u32, (Offset, u32))| *outputs > 0 && which(*origin);
        self.shared.acknowledge(outputs.filter(which).map(|(_, outputs)| outputs));
    }

    /// Decides what becomes of records that sinks refused: held until the pipeline is resumed, then written anew if none
    /// may be passed over; a dead letter else. What the breaker held goes through then, or nobody could get past it.
    async fn settle(&self, mut refused: Refused) -> Flow {
        loop {
            refused.values_mut().for_each(|refusal| mask_failure(self.generation.mask(), &mut refusal.failure));
            let failures = refused.iter().map(|(origin, refusal)| (*origin, refusal.failure.clone())).collect();
            // The records themselves were counted when they left the plugins.
            let Some(hold) = self.shared.hold(&self.stamped.source, 0, &failures) else { break };
            if self.shared.resumed(&hold).await == Flow::Stop {
                return Flow::Stop;
            }
            if hold.by != PausedBy::Poison {
                break;
            }
            refused = self.write_again(refused).await;
            if refused.is_empty() {
                return Flow::GoOn;
            }
        }
        if self.shared.line.errors.poison == Poison::Skip {
            let meters = &self.shared.line.meters;
            refused.values().for_each(|refusal| meters.skipped(&refusal.failure.stage, &refusal.failure.code, 1));
        } else {
            let letter = |(origin, refusal): (u32, Refusal)| {
                let partial = refusal.rows < self.of(origin);
                self.letter(origin, refusal.failure, partial)
            };
            dead_letters(&self.shared, refused.into_iter().map(letter).collect()).await;
        }
        Flow::GoOn
    }

    /// Makes the rows of refused records once more, as their plugins are functions of the records, and writes those of
    /// the outputs that refused. Gives what is refused still.
    async fn write_again(&self, refused: Refused) -> Refused {
        let outputs: BTreeSet<usize> = refused.values().flat_map(|refusal| refusal.outputs.iter().copied()).collect();
        let rows: Vec<usize> = refused.keys().map(|origin| *origin as usize).collect();
        let (generation, stamped) = (Arc::clone(&self.generation), Arc::clone(&self.stamped));
        let work = async move {
            let _entered = generation.chain.enter().await;
            generation.process(Arc::new(stamped.source.select(rows)), Run::default(), &stamped).await
        };
        match self.shared.line.compute.run(work).await {
            Ok(Ok(mut processed)) if processed.failures.is_empty() => {
                processed.sink_batches.retain(|(at, _)| outputs.contains(at));
                answers(&self.shared, accept(&self.shared, processed.sink_batches).await).await
            }
            // A plugin fails now that did not: the refusal stands, and holds the pipeline as before.
            _ => refused,
        }
    }

    /// The dead letter of a record. It has one at most, whoever failed it and however often it is read: its id names the
    /// record.
    fn letter(&self, origin: u32, failure: RecordFailure, partial: bool) -> DeadLetter {
        let Self { shared, stamped, generation, .. } = self;
        let (row, source, line) = (origin as usize, &stamped.source, &shared.line);
        let offset = Offset(source.offsets[row]);
        DeadLetter {
            pipeline: line.name.clone(),
            source: source.source.clone(),
            offset,
            timestamp_ms: source.timestamp_ms(row),
            key: source.keys.get(row).map(<[u8]>::to_vec),
            value: source.values.get(row).map(<[u8]>::to_vec),
            headers: source.headers.get(row).unwrap_or_default().to_vec(),
            stage: failure.stage,
            code: failure.code,
            message: failure.message,
            backtrace: failure.backtrace,
            logs: failure.lines.iter().map(|lost| lost.marked(generation.chain.step_name(lost.step))).collect(),
            digests: generation.digests.clone(),
            attempts: failure.attempts,
            write_time: stamped.write_times[row],
            partial,
            id: format!("{}/{}/{offset}/dead-letter", source.source.topic, source.source.partition),
            redrives: 0,
            at_ms: Some(line.clock.now_ms()),
        }
    }
}

async fn accept(shared: &Shared, batches: Vec<(usize, SinkBatch)>) -> Vec<Accepted> {
    let mut accepted = Vec::new();
    for (output, batch) in batches {
        let origins = batch.rows.iter().map(|row| row.origin).collect();
        let began = Instant::now();
        shared.has_written.store(true, Ordering::SeqCst);
        let answer = shared.line.outputs[output].sink.write(batch).await;
        shared.note_moved();
        accepted.push(Accepted { output, origins, began, answer });
    }
    accepted
}

/// Waits for the sinks' answers.
async fn answers(shared: &Shared, accepted: Vec<Accepted>) -> Refused {
    let answered = accepted.into_iter().map(|Accepted { output, origins, began, answer }| async move {
        let written = answer.await;
        // A slow sink that answers is no task that hangs.
        shared.note_moved();
        let name = &shared.line.outputs[output].name;
        let durable = origins.len().saturating_sub(written.failures.len()) as u64;
        let durable = durable.saturating_sub(written.expired);
        shared.line.meters.written(name, durable, written.bytes, written.expired, began.elapsed());
        (output, origins, written.failures)
    });
    let mut refused = Refused::new();
    for (output, origins, failures) in join_all(answered).await {
        let stage = format!("sink:{}", shared.line.outputs[output].name);
        for RowFailure { row, code, message } in failures {
            let refusal = refused.entry(origins[row]).or_insert_with(|| Refusal {
                failure: RecordFailure::new(&stage, &code, &message),
                outputs: BTreeSet::new(),
                rows: 0,
            });
            refusal.rows += 1;
            if refusal.outputs.insert(output) && refusal.outputs.len() > 1 {
                refusal.failure.message.push_str(&format!("; {stage}: {code}: {message}"));
            }
        }
    }
    refused
}

async fn dead_letters(shared: &Shared, letters: Vec<DeadLetter>) {
    if letters.is_empty() {
        return;
    }
    let codes: Vec<(String, String)> =
        letters.iter().map(|letter| (letter.stage.clone(), letter.code.clone())).collect();
    shared.line.dead_letters.write(letters).await;
    for (stage, code) in codes {
        shared.line.meters.dead_letter(&stage, &code);
    }
}
