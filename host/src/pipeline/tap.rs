//! A look at live records, before and after a step.
//!
//! In: what a step got and what it said, as it happens; what a listener asked for. Out: sights of some records, to each
//! listener that is there; of a share of them the same ones before and after every step. The line never waits for a
//! listener: what does not fit into its buffer, or comes faster than anybody reads, is passed over and counted. Where
//! nobody listens it costs one look at a flag a batch. Keys and values are told only where that was asked for, and what
//! the configuration keeps secret is masked.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::chain::RecordFailure;
use super::decode::Reject;
use super::encode::{Encoder, Origins, OutputEncoder, Routed, Stage};
use super::{OutOp, TransformOutput, Wants};
use crate::config::{Mask, Tombstones};
use crate::record::{Batch, WriteTime};

/// Sights that a listener has not read yet.
const BUFFERED: usize = 256;
/// Sights for one listener of one batch.
const A_BATCH: usize = 16;
/// Bytes of a key or a value that are told.
const PAYLOAD_BYTES: usize = 16 << 10;

/// What a listener asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wish {
    /// Only this step, from 1; all where none is named.
    pub step: Option<usize>,
    /// How much of all: 1 is every record.
    pub sample: f64,
    /// Keys and values too.
    pub payload: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Self { step: None, sample: 1.0, payload: false }
    }
}

impl Wish {
    /// Whether a record is among those that are shown. It follows from where the record stands alone, so that the same
    /// ones show before and after every step, and whenever they come again.
    fn wants(&self, batch: &Batch, offset: i64) -> bool {
        if self.sample >= 1.0 {
            return true;
        }
        let mut hasher = DefaultHasher::new();
        (&*batch.source.topic, batch.source.partition, offset).hash(&mut hasher);
        // The upper half is even enough, and whole in a float.
        f64::from((hasher.finish() >> 32) as u32) < self.sample * (f64::from(u32::MAX) + 1.0)
    }
}

/// A wish that the pipeline cannot fulfil.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WishError {
    /// A share that is none.
    #[error("`sample` is a share above 0, and 1 at most, not {0}")]
    Sample(f64),
    /// The pipeline has no such step.
    #[error("there is no step {step}: {}", told(.steps))]
    NoSuchStep {
        /// Which was asked for.
        step: usize,
        /// The plugins of those that there are.
        steps: Vec<String>,
    },
}

fn told(steps: &[String]) -> String {
    if steps.is_empty() {
        return "the pipeline has none; without `step` its records are shown as they pass".to_owned();
    }
    let steps: Vec<String> = steps.iter().enumerate().map(|(at, plugin)| format!("{} {plugin}", at + 1)).collect();
    format!("the pipeline has {}", steps.join(", "))
}

/// One record before and after a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sight {
    /// The step, from 1; 0 where the pipeline has none.
    pub step: usize,
    /// Its plugin; empty where the pipeline has none.
    pub plugin: String,
    /// Where the record stands.
    pub topic: String,
    /// Where the record stands.
    pub partition: i32,
    /// Where the record stands.
    pub offset: i64,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: Option<i64>,
    /// What the step got.
    pub before: Parts,
    /// What it made of it; nothing where the plugin let it go.
    pub after: Vec<After>,
    /// Records that this listener has missed until now: they came too fast.
    pub missed: u64,
}

/// What leaves a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum After {
    /// A record, to an output or the next step.
    Row {
        /// `default`, or the output's name.
        output: String,
        /// The row is deleted.
        delete: bool,
        /// The record.
        record: Parts,
    },
    /// It failed.
    Failed {
        /// Short and stable.
        code: String,
        /// For people.
        message: String,
    },
}

/// A key and a value.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// Bytes of the key; none where it is null.
    pub key_bytes: Option<usize>,
    /// Bytes of the value; none where it is null.
    pub value_bytes: Option<usize>,
    /// The key, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The value, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// The tap of a pipeline. Clones are the same tap.
#[derive(Debug, Clone, Default)]
pub struct Tap(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_on: AtomicBool,
    mask: Mutex<Mask>,
    /// The plugins, in the order of steps.
    steps: Mutex<Vec<String>>,
    listeners: Mutex<Vec<Listener>>,
}

#[derive(Debug)]
struct Listener {
    wish: Wish,
    missed: u64,
    to: mpsc::Sender<Sight>,
}

/// The taps of a process, by pipeline.
#[derive(Debug, Clone, Default)]
pub struct Taps(Arc<Mutex<BTreeMap<String, Tap>>>);

impl Taps {
    /// A pipeline runs.
    pub fn put(&self, pipeline: &str, tap: &Tap) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pipeline.to_owned(), tap.clone());
    }

    /// The tap of a pipeline.
    #[must_use]
    pub fn of(&self, pipeline: &str) -> Option<Tap> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(pipeline).cloned()
    }
}

/// A step's name, its place and its outputs.
#[derive(Clone, Copy)]
pub(super) struct Of<'s> {
    /// From 0; none where the pipeline has no step.
    pub(super) at: Option<usize>,
    pub(super) plugin: &'s str,
    pub(super) routes: &'s [String],
    pub(super) encoder: &'s Encoder,
}

impl Tap {
    /// A tap that nobody listens to, and that masks what is secret.
    #[must_use]
    pub fn new(mask: Mask) -> Self {
        Self(Arc::new(Inner { mask: Mutex::new(mask), ..Inner::default() }))
    }

    /// Masks this too from now on.
    pub(super) fn masks_too(&self, mask: &Mask) {
        let mut known = self.0.mask.lock().unwrap_or_else(PoisonError::into_inner);
        *known = known.and(mask);
    }

    fn masked(&self, text: &str) -> String {
        self.0.mask.lock().unwrap_or_else(PoisonError::into_inner).apply(text)
    }

    /// The plugins, in the order of steps. Whoever listens already goes on.
    pub(super) fn steps_are(&self, plugins: Vec<String>) {
        *self.steps() = plugins;
    }

    fn steps(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens; dropping the receiver ends it.
    ///
    /// # Errors
    /// Where nothing would ever be seen.
    pub fn listen(&self, wish: Wish) -> Result<mpsc::Receiver<Sight>, WishError> {
        if !(wish.sample > 0.0 && wish.sample <= 1.0) {
            return Err(WishError::Sample(wish.sample));
        }
        let steps = self.steps().clone();
        if let Some(step) = wish.step.filter(|step| !(1..=steps.len()).contains(step)) {
            return Err(WishError::NoSuchStep { step, steps });
        }
        let (to, sights) = mpsc::channel(BUFFERED);
        self.listeners().push(Listener { wish, missed: 0, to });
        self.0.is_on.store(true, Ordering::Relaxed);
        Ok(sights)
    }

    /// Whether anybody may be listening.
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_on.load(Ordering::Relaxed)
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Vec<Listener>> {
        self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a step could not be given.
    pub(super) fn rejected(&self, of: Of<'_>, batch: &Batch, rejects: &[Reject]) {
        if rejects.is_empty() {
            return;
        }
        let after = |reject: &Reject| {
            vec![After::Failed { code: reject.code.to_owned(), message: self.masked(&reject.message) }]
        };
        let of_row = |row: usize| rejects.iter().find(|reject| reject.row == row).map(after).unwrap_or_default();
        self.show(of, batch, &rejects.iter().map(|reject| reject.row).collect::<Vec<_>>(), |row, _| of_row(row));
    }

    /// Rows of one record on which a plugin failed for good.
    pub(super) fn failed(&self, of: Of<'_>, batch: &Batch, failure: &RecordFailure) {
        let rows: Vec<usize> = (0..batch.len()).collect();
        self.show(of, batch, &rows, |_, _| {
            vec![After::Failed { code: failure.code.clone(), message: self.masked(&failure.message) }]
        });
    }

    /// Records that leave by the default output as they came: no plugin is asked about them.
    pub(super) fn passed(&self, of: Of<'_>, batch: &Batch) {
        let rows: Vec<usize> = (0..batch.len()).collect();
        self.show(of, batch, &rows, |row, payload| {
            let record = self.parts(batch.keys.get(row), batch.values.get(row), payload);
            vec![After::Row { output: "default".to_owned(), delete: false, record }]
        });
    }

    /// A step has spoken.
    pub(super) fn spoke(&self, of: Of<'_>, batch: &Batch, said: &TransformOutput) {
        let rows: Vec<usize> = (0..batch.len()).collect();
        let output = OutputEncoder::new("tap", &Wants::Records, &Tombstones::Reject, &of.encoder.set_fields);
        let mut stage = None;
        self.show(of, batch, &rows, |row, payload| {
            let failed = said.failures.iter().filter(|failure| failure.row as usize == row);
            let mut after: Vec<After> = failed
                .map(|failure| After::Failed {
                    code: self.masked(&failure.code),
                    message: self.masked(&failure.message),
                })
                .collect();
            let stage: &Stage = stage.get_or_insert_with(|| alone(of.at, batch, said));
            let mine = said.rows.iter().enumerate().filter(|(_, out)| out.row as usize == row);
            after.extend(mine.map(|(at, out)| {
                let record = self.encoded(of.encoder, &output, stage, (row, at), payload);
                let route = (out.route as usize).checked_sub(1).and_then(|route| of.routes.get(route));
                let output = route.map_or_else(|| "default".to_owned(), Clone::clone);
                After::Row { output, delete: out.op == OutOp::Delete, record }
            }));
            after
        });
    }

    /// A tap of a pipeline with these plugins.
    #[cfg(test)]
    pub(crate) fn of_steps(mask: Mask, plugins: &[&str]) -> Self {
        let tap = Self::new(mask);
        tap.steps_are(plugins.iter().map(|plugin| (*plugin).to_owned()).collect());
        tap
    }

    /// Shows one record that a step let go.
    #[cfg(test)]
    pub(crate) fn show_for_test(&self, value: &[u8]) {
        let mut batch = Batch::new(crate::record::TopicPartition::new("t", 0));
        batch.push(crate::record::Offset(1), None, None, Some(value), []);
        let encoder = Encoder { format: crate::config::Format::Json, set_fields: Vec::new() };
        self.show(Of { at: Some(0), plugin: "test", routes: &[], encoder: &encoder }, &batch, &[0], |_, _| Vec::new());
    }

    /// What a topic would get of a row.
    fn encoded(
        &self,
        encoder: &Encoder,
        output: &OutputEncoder,
        stage: &Stage,
        (row, at): (usize, usize),
        payload: bool,
    ) -> Parts {
        let write_times = vec![WriteTime(0); stage.batch.len()];
        let origins = Origins { source: &stage.batch, write_times: &write_times, generation: 0 };
        let routed = Routed { stage: 0, row: at, origin: row as u32, index: 0 };
        let batch = encoder.sink_batch(output, std::slice::from_ref(stage), &[routed], origins, &mut Vec::new());
        if batch.is_empty() {
            return Parts::default();
        }
        self.parts(batch.keys.get(0), batch.values.get(0), payload)
    }

    fn parts(&self, key: Option<&[u8]>, value: Option<&[u8]>, payload: bool) -> Parts {
        let told = |bytes: Option<&[u8]>| {
            let bytes = bytes.filter(|_| payload)?;
            let told = String::from_utf8_lossy(bytes.get(..PAYLOAD_BYTES).unwrap_or(bytes)).into_owned();
            Some(self.masked(&told))
        };
        Parts {
            key_bytes: key.map(<[u8]>::len),
            value_bytes: value.map(<[u8]>::len),
            key: told(key),
            value: told(value),
        }
    }

    /// Shows some of these rows to each listener; `after` says what became of one.
    fn show(&self, of: Of<'_>, batch: &Batch, rows: &[usize], mut after: impl FnMut(usize, bool) -> Vec<After>) {
        let step = of.at.map_or(0, |at| at + 1);
        let mut listeners = self.listeners();
        listeners.retain(|listener| !listener.to.is_closed());
        self.0.is_on.store(!listeners.is_empty(), Ordering::Relaxed);
        for listener in listeners.iter_mut() {
            if listener.wish.step.is_some_and(|wanted| wanted != step) {
                continue;
            }
            let mut left = A_BATCH;
            for row in rows.iter().copied() {
                let offset = batch.offsets.get(row).copied().unwrap_or_default();
                if !listener.wish.wants(batch, offset) {
                    continue;
                }
                if left == 0 || listener.to.capacity() == 0 {
                    listener.missed += 1;
                    continue;
                }
                left -= 1;
                let payload = listener.wish.payload;
                let sight = Sight {
                    step,
                    plugin: of.plugin.to_owned(),
                    topic: batch.source.topic.to_string(),
                    partition: batch.source.partition,
                    offset,
                    timestamp_ms: batch.timestamp_ms(row),
                    before: self.parts(batch.keys.get(row), batch.values.get(row), payload),
                    after: after(row, payload),
                    missed: listener.missed,
                };
                if listener.to.try_send(sight).is_err() {
                    listener.missed += 1;
                }
            }
        }
    }
}

/// A step's batch and what it said, apart from the batch that the source gave: each row is its own origin.
fn alone(step: Option<usize>, batch: &Batch, said: &TransformOutput) -> Stage {
    let mut batch = batch.clone();
    batch.origins = (0..).take(batch.len()).collect();
    let mut rows = said.rows.clone();
    for row in &mut rows {
        // A deleted row has no value; its set fields alone, which name the row, are what `new` makes of it.
        row.op = if row.op == OutOp::Delete { OutOp::New } else { row.op };
    }
    Stage { step, batch: Arc::new(batch), output: TransformOutput { rows, ..said.clone() } }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures::FutureExt as _;

    use super::super::chain::{Chain, Run};
    use super::super::{FailureKind, Subscription, Transform, TrapKind};
    use super::*;
    use crate::config::Format;
    use crate::memory::{MemoryTransform, OwnedCell, OwnedValue, Step};
    use crate::record::{Field, FieldType, Offset, OutputField, Policy, TopicPartition};

    const SECRET: &str = "hunter2-hunter2";

    fn first() -> MemoryTransform {
        let set_fields = vec![OutputField { path: vec!["seen".into()], field_type: FieldType::S64 }];
        let subscription = Subscription { set_fields, routes: vec!["alerts".into()], ..Subscription::default() };
        MemoryTransform::new("first", subscription, |record| {
            let value = record.value().unwrap_or_default();
            let seen = || Step::Keep(vec![OwnedCell::Value(OwnedValue::S64(1))]);
            match value {
                b"{\"a\":0}" => Step::Drop,
                b"{\"a\":1}" => Step::Fail(FailureKind::Reject, "bad".into(), format!("no {SECRET}")),
                b"{\"a\":2}" => Step::All(vec![seen(), Step::To(1, Box::new(seen()))]),
                _ => seen(),
            }
        })
    }

    fn chain() -> Chain {
        chain_of(vec![Arc::new(first()), Arc::new(MemoryTransform::identity())])
    }

    fn chain_of(steps: Vec<Arc<dyn Transform>>) -> Chain {
        let set_fields = steps.iter().map(|step| step.subscription().set_fields.clone()).collect();
        let encoder = Arc::new(Encoder { format: Format::Json, set_fields });
        let chain = Chain::new(&steps, encoder).with_tap(Tap::new(Mask::of([SECRET])));
        chain.tell_tap();
        chain
    }

    fn listen(chain: &Chain, wish: Wish) -> mpsc::Receiver<Sight> {
        chain.tap.listen(wish).expect("there is such a step")
    }

    fn run(chain: &Chain, offsets: std::ops::Range<i64>) {
        let mut batch = Batch::new(TopicPartition::new("t", 3));
        for offset in offsets {
            batch.push(Offset(offset), Some(7), Some(b"k"), Some(format!("{{\"a\":{offset}}}").as_bytes()), []);
        }
        assert!(chain.run(Arc::new(batch), Run::default()).now_or_never().expect("nothing waits").is_ok());
    }

    fn seen(sights: &mut mpsc::Receiver<Sight>) -> Vec<Sight> {
        std::iter::from_fn(|| sights.try_recv().ok()).collect()
    }

    #[test]
    fn a_record_is_shown_before_and_after_each_step() {
        let chain = chain();
        assert!(!chain.tap.is_on());
        let mut sights = listen(&chain, Wish { payload: true, ..Wish::default() });
        run(&chain, 0..3);
        let seen = seen(&mut sights);
        let told: Vec<_> = seen.iter().map(|sight| (sight.step, sight.offset, sight.after.len())).collect();
        assert_eq!(told, [(1, 0, 0), (1, 1, 1), (1, 2, 2), (2, 2, 1)]);
        let failed = After::Failed { code: "bad".into(), message: "no ***".into() };
        assert_eq!(seen[1].after, [failed], "what is secret does not show");
        let After::Row { output, delete: false, record } = &seen[2].after[1] else { panic!("{:?}", seen[2]) };
        assert_eq!((output.as_str(), record.value.as_deref()), ("alerts", Some(r#"{"a":2,"seen":1}"#)));
        assert_eq!(seen[3].before.value.as_deref(), Some(r#"{"a":2,"seen":1}"#));
        assert_eq!((seen[3].plugin.as_str(), seen[3].before.key.as_deref()), ("identity", Some("k")));
    }

    #[test]
    fn payloads_show_only_where_they_were_asked_for_and_only_the_step_that_is_meant() {
        let chain = chain();
        let mut sights = listen(&chain, Wish { step: Some(2), ..Wish::default() });
        run(&chain, 2..4);
        let seen = seen(&mut sights);
        assert_eq!(seen.iter().map(|sight| sight.step).collect::<BTreeSet<_>>(), BTreeSet::from([2]));
        let plain = Parts { key_bytes: Some(1), value_bytes: Some(16), key: None, value: None };
        assert_eq!(seen[0].before, plain);
        assert!(seen.iter().all(|sight| !serde_json::to_string(sight).expect("JSON").contains("seen")));
    }

    #[test]
    fn the_line_waits_for_nobody_and_a_listener_that_has_gone_is_forgotten() {
        let chain = chain();
        let mut sights = listen(&chain, Wish { step: Some(1), ..Wish::default() });
        for round in 0..100 {
            run(&chain, round * 10 + 5..round * 10 + 15);
        }
        let first = seen(&mut sights);
        assert_eq!((first.len(), first[0].missed), (BUFFERED, 0));
        run(&chain, 5000..5001);
        let next = seen(&mut sights);
        assert_eq!((next.len(), next[0].missed), (1, 1000 - BUFFERED as u64), "what was missed is counted");
        drop(sights);
        run(&chain, 3..4);
        assert!(!chain.tap.is_on());
    }

    #[test]
    fn a_share_of_the_records_is_shown_the_same_ones_before_and_after_every_step() {
        let chain = chain();
        let mut sights = listen(&chain, Wish { sample: 0.5, ..Wish::default() });
        let mut offsets = BTreeMap::<usize, Vec<i64>>::new();
        // One by one, as they come where little happens.
        for offset in 5..1_005 {
            run(&chain, offset..offset + 1);
            for sight in seen(&mut sights) {
                offsets.entry(sight.step).or_default().push(sight.offset);
            }
        }
        let (first, second) = (&offsets[&1], &offsets[&2]);
        assert!((420..=580).contains(&first.len()), "{} of 1000", first.len());
        assert_eq!(first, second);
    }

    #[test]
    fn a_record_that_traps_is_shown_as_failed_once_it_is_found() {
        let traps = MemoryTransform::identity().trap_on(b"\"a\":6", TrapKind::CpuLimit);
        let chain = chain_of(vec![Arc::new(first()), Arc::new(traps)]);
        let mut sights = listen(&chain, Wish { step: Some(2), ..Wish::default() });
        let mut batch = Batch::new(TopicPartition::new("t", 3));
        batch.push(Offset(6), Some(7), None, Some(b"{\"a\":6}"), []);
        let output = chain.run(Arc::new(batch), Run::default()).now_or_never().expect("nothing waits");
        let output = output.map_err(|halt| halt.cause).expect("it stands alone");
        let [failure] = &output.failures.values().collect::<Vec<_>>()[..] else { panic!("{:?}", output.failures) };
        let seen = seen(&mut sights);
        let failed = After::Failed { code: "plugin.cpu_limit".into(), message: failure.message.clone() };
        assert_eq!((seen.len(), seen[0].offset, &seen[0].after[..]), (1, 6, &[failed][..]));
        assert!(!failure.message.is_empty());
    }

    #[test]
    fn without_steps_records_are_shown_as_they_pass() {
        let chain = chain_of(Vec::new());
        let mut sights = listen(&chain, Wish { payload: true, ..Wish::default() });
        run(&chain, 0..1);
        let seen = seen(&mut sights);
        assert_eq!((seen.len(), seen[0].step, seen[0].plugin.as_str()), (1, 0, ""));
        let After::Row { output, delete: false, record } = &seen[0].after[0] else { panic!("{:?}", seen[0]) };
        assert_eq!((output.as_str(), record), ("default", &seen[0].before));
        assert_eq!(record.value.as_deref(), Some(r#"{"a":0}"#));
    }

    #[test]
    fn a_tombstone_that_no_plugin_is_asked_about_is_shown_too() {
        let (on_missing, on_mismatch) = (Policy::Reject, Policy::Reject);
        let value_fields = vec![Field { path: vec!["a".into()], field_type: FieldType::S64, on_missing, on_mismatch }];
        let subscription = Subscription { value_fields, ..Subscription::default() };
        let chain = chain_of(vec![Arc::new(MemoryTransform::new("reads", subscription, |_| Step::Drop))]);
        let mut sights = listen(&chain, Wish::default());
        let mut batch = Batch::new(TopicPartition::new("t", 3));
        batch.push(Offset(6), Some(7), Some(b"k"), None, []);
        assert!(chain.run(Arc::new(batch), Run::default()).now_or_never().expect("nothing waits").is_ok());
        let seen = seen(&mut sights);
        let record = Parts { key_bytes: Some(1), ..Parts::default() };
        assert_eq!(seen[0].after, [After::Row { output: "default".into(), delete: false, record }]);
    }

    #[test]
    fn what_would_never_show_anything_is_refused_in_words() {
        let refused = |chain: &Chain, step, sample| {
            let wish = Wish { step, sample, payload: false };
            chain.tap.listen(wish).map(drop).map_err(|error| error.to_string()).expect_err("it is refused")
        };
        let (two, none) = (chain(), chain_of(Vec::new()));
        assert_eq!(refused(&two, Some(9), 1.0), "there is no step 9: the pipeline has 1 first, 2 identity");
        assert_eq!(refused(&two, Some(0), 1.0), "there is no step 0: the pipeline has 1 first, 2 identity");
        let words = "there is no step 1: the pipeline has none; without `step` its records are shown as they pass";
        assert_eq!(refused(&none, Some(1), 1.0), words);
        assert_eq!(refused(&two, None, 7.0), "`sample` is a share above 0, and 1 at most, not 7");
        assert!(!two.tap.is_on());
    }
}
