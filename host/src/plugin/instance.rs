//! One running guest.
//!
//! In: a [`Plan`], then batches, one at a time. Out: checked answers, or the [`Fault`] that ended it. After a fault the
//! store is poisoned: the instance must be dropped.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::executor::block_on;
use wasmtime::{Engine, Store, Trap, UpdateDeadline, WasmBacktrace};

use super::bindings::{Transform, TransformPre, types, waiting};
use super::budget::{Budget, LimitHit, MemoryLimiter, cpu_of_call, rule_of_call};
use super::check::{Checked, Frame, Lie, check};
use super::effects::{EffectsBuffer, MetricNames, cut};
use super::error::LoadError;
use super::state::{Rows, State};
use crate::config::Limits;
use crate::egress::Outgoing;
use crate::pipeline::{LogLine, Subscription, TransformError, TransformInput, TransformOutput, TrapKind, Usage};
use crate::record::{Batch, Column, FieldColumn};

/// CPU time for starting: interpreters unpack themselves, and `configure` may compile patterns.
const START_CPU: Duration = Duration::from_secs(5);
/// Wall time for starting.
const START_WALL: Duration = Duration::from_secs(120);
/// What crosses beside the bytes of the output: the host's own sizes of what it lifts.
const LIFT_SLACK_BYTES: usize = 1 << 20;
/// Bytes of a name in a backtrace: a guest chooses its names.
const FRAME_BYTES_MAX: usize = 500;
/// Bytes that the host counts for each byte that comes out, at most: tables of failures are wider in the host.
const LIFT_FACTOR: usize = 4;

/// All that instances of one generation have in common.
pub(super) struct Plan {
    pub(super) pre: Pre,
    pub(super) limits: Limits,
    /// The `config:` block as JSON text.
    pub(super) config_text: String,
    /// Its top-level keys, for `config.get`.
    pub(super) config: Arc<BTreeMap<String, String>>,
    pub(super) metric_names: Arc<MetricNames>,
    pub(super) may_log: bool,
    /// Whether the guest imports `clock`.
    pub(super) clock: bool,
    /// Whether the guest imports `random`.
    pub(super) random: bool,
    /// Where its requests go; none where it makes none.
    pub(super) outgoing: Option<Arc<dyn Outgoing>>,
}

/// A linked component.
pub(super) enum Pre {
    /// Its calls begin and end on one thread.
    Plain(TransformPre<State>),
    /// Its calls may leave their thread.
    Waiting(waiting::TransformWithHttpPre<State>),
}

/// An instantiated one.
enum Guest {
    Plain(Transform),
    Waiting(waiting::TransformWithHttp),
}

impl Pre {
    fn engine(&self) -> &Engine {
        match self {
            Self::Plain(pre) => pre.engine(),
            Self::Waiting(pre) => pre.engine(),
        }
    }

    /// Nobody can be asked before a batch is there, so this ends where it begins.
    fn instantiate(&self, store: &mut Store<State>) -> wasmtime::Result<Guest> {
        match self {
            Self::Plain(pre) => pre.instantiate(store).map(Guest::Plain),
            Self::Waiting(pre) => at_once(pre.instantiate_async(store)).map(Guest::Waiting),
        }
    }
}

impl Guest {
    /// As [`Pre::instantiate`].
    fn configure(
        &self,
        store: &mut Store<State>,
        settings: types::Settings<'_>,
    ) -> wasmtime::Result<Result<types::Subscription, String>> {
        match self {
            Self::Plain(guest) => guest.call_configure(store, settings),
            Self::Waiting(guest) => at_once(guest.call_configure(store, settings)),
        }
    }
}

fn at_once<T>(call: impl Future<Output = T>) -> T {
    call.now_or_never().expect("there is nothing that it could wait for")
}

/// A guest that is ready for a batch.
pub(super) struct Instance {
    store: Store<State>,
    guest: Guest,
    /// Columns of subscribed headers, for reuse.
    headers: Vec<HeaderColumn>,
    /// CPU time of its start, until its first batch is charged with it.
    start_ns: u64,
}

/// How a call ended, where it did not return.
pub(super) enum Fault {
    /// The guest's fault.
    Trap { kind: TrapKind, message: String, backtrace: String },
    /// The machine's.
    Busy(String),
}

impl Instance {
    /// Instantiates and configures a guest.
    pub(super) fn start(plan: &Plan) -> Result<(Self, types::Subscription, Vec<LogLine>), LoadError> {
        let state = State {
            memory: MemoryLimiter::new(plan.limits.memory_bytes),
            budget: Budget::default(),
            effects: EffectsBuffer::new(Arc::clone(&plan.metric_names), plan.limits.log_lines),
            rows: Rows::default(),
            config: Arc::clone(&plan.config),
            may_log: plan.may_log,
            outgoing: None,
        };
        let mut store = Store::new(plan.pre.engine(), state);
        store.limiter(|state| &mut state.memory);
        store.set_hostcall_fuel(plan.limits.output_bytes.saturating_mul(LIFT_FACTOR).saturating_add(LIFT_SLACK_BYTES));
        store.epoch_deadline_callback(|context| {
            context.data().budget.check().map_err(wasmtime::Error::new)?;
            Ok(UpdateDeadline::Continue(1))
        });
        begin(&mut store, START_CPU.max(plan.limits.cpu_per_batch), START_WALL);
        let guest = match plan.pre.instantiate(&mut store) {
            Ok(guest) => guest,
            Err(error) => return Err(not_started(&mut store, &error)),
        };
        let settings = types::Settings { config: &plan.config_text };
        match guest.configure(&mut store, settings) {
            Ok(Ok(subscription)) => {
                let said = store.data_mut().effects.take();
                let start_ns = store.data().budget.cpu_used_ns();
                Ok((Self { store, guest, headers: Vec::new(), start_ns }, subscription, said.logs))
            }
            Ok(Err(message)) => Err(LoadError::Config { message: cut(message) }),
            Err(error) => Err(not_started(&mut store, &error)),
        }
    }

    /// Bytes of linear memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().memory.used_bytes()
    }

    /// Handles a batch, on the thread of the call. After an error the instance must be dropped.
    pub(super) fn process(
        &mut self,
        plan: &Plan,
        subscription: &Subscription,
        input: &TransformInput<'_>,
    ) -> Result<TransformOutput, TransformError> {
        self.begin(plan, subscription, input.batch);
        let lent = Lent::of(&self.headers, input);
        let batch = lent.batch(subscription, input);
        let answer = match &self.guest {
            Guest::Plain(guest) => guest.call_process(&mut self.store, batch),
            Guest::Waiting(guest) => block_on(guest.call_process(&mut self.store, batch)),
        };
        self.end(answer, plan, subscription, input.batch)
    }

    /// As [`Self::process`], for a guest that may wait for others, and is on no thread meanwhile.
    pub(super) async fn process_waiting(
        &mut self,
        plan: &Plan,
        subscription: &Subscription,
        input: TransformInput<'_>,
    ) -> Result<TransformOutput, TransformError> {
        self.begin(plan, subscription, input.batch);
        let lent = Lent::of(&self.headers, &input);
        let batch = lent.batch(subscription, &input);
        let answer = match &self.guest {
            Guest::Plain(guest) => guest.call_process(&mut self.store, batch),
            Guest::Waiting(guest) => guest.call_process(&mut self.store, batch).await,
        };
        self.end(answer, plan, subscription, input.batch)
    }

    fn begin(&mut self, plan: &Plan, subscription: &Subscription, batch: &Batch) {
        self.store.data_mut().effects.clear();
        self.store.data_mut().rows.begin(batch, plan.clock, plan.random);
        self.store.data_mut().outgoing.clone_from(&plan.outgoing);
        fill_headers(&mut self.headers, &subscription.headers, batch);
        begin(&mut self.store, cpu_of_call(&plan.limits, batch.len(), batch.bytes()), plan.limits.wall_per_batch);
    }

    /// What a call said, checked; or how it ended.
    fn end(
        &mut self,
        answer: Said,
        plan: &Plan,
        subscription: &Subscription,
        batch: &Batch,
    ) -> Result<TransformOutput, TransformError> {
        let cpu_ns = self.store.data().budget.cpu_used_ns() + std::mem::take(&mut self.start_ns);
        self.store.data_mut().rows.end();
        self.store.data_mut().outgoing = None;
        let output = match answer {
            Ok(Ok(output)) => output,
            Ok(Err(types::Error::Retry(message))) => {
                return Err(TransformError::Retry { message: cut(message), logs: self.last_lines(), cpu_ns });
            }
            Ok(Err(types::Error::Fatal(message))) => {
                return Err(self.trap(TrapKind::Fatal, cut(message), String::new(), cpu_ns));
            }
            Err(error) => {
                return Err(match fault(&self.store, &error) {
                    Fault::Busy(message) => TransformError::Busy { message, logs: self.last_lines(), cpu_ns },
                    Fault::Trap { kind: kind @ TrapKind::CpuLimit, message, backtrace } => {
                        let rule = rule_of_call(&plan.limits, batch.len(), batch.bytes());
                        self.trap(kind, format!("{message}: {rule}"), backtrace, cpu_ns)
                    }
                    Fault::Trap { kind, message, backtrace } => self.trap(kind, message, backtrace, cpu_ns),
                });
            }
        };
        let frame = Frame {
            count: u32::try_from(batch.len()).unwrap_or(u32::MAX),
            routes: u32::try_from(subscription.routes.len()).unwrap_or(u32::MAX),
            set_fields: &subscription.set_fields,
            output_bytes_max: plan.limits.output_bytes,
            record_bytes: &|row| record_bytes(batch, row as usize),
        };
        let checked = check(output, &frame).map_err(|lie| {
            let kind = match lie {
                Lie::TooLarge { .. } => TrapKind::OutputLimit,
                Lie::Table(_) => TrapKind::InvalidOutput,
            };
            self.trap(kind, lie.to_string(), String::new(), cpu_ns)
        })?;
        let Checked { rows, data, set_fields, failures } = checked;
        let usage = Usage { records: 0, cpu_ns, memory_bytes: self.memory_bytes() as u64 };
        let effects = self.store.data_mut().effects.take();
        Ok(TransformOutput { rows, data, set_fields, failures, effects, usage })
    }

    fn trap(&mut self, kind: TrapKind, message: String, backtrace: String, cpu_ns: u64) -> TransformError {
        TransformError::Trap { kind, message, backtrace, logs: self.last_lines(), cpu_ns }
    }

    fn last_lines(&mut self) -> Vec<LogLine> {
        self.store.data_mut().effects.take_last_lines()
    }
}

/// Winds up the clocks, on the thread that makes the call.
fn begin(store: &mut Store<State>, cpu: Duration, wall: Duration) {
    store.data_mut().memory.begin();
    store.data_mut().budget = Budget::start(cpu, wall);
    store.set_epoch_deadline(1);
}

/// How a call of `process` ended.
type Said = wasmtime::Result<Result<types::Output, types::Error>>;

/// A batch's tables as they stand, lent to a call.
struct Lent<'b> {
    headers: Vec<types::Column<'b>>,
    value_fields: Vec<types::FieldColumn<'b>>,
}

impl<'b> Lent<'b> {
    fn of(headers: &'b [HeaderColumn], input: &TransformInput<'b>) -> Self {
        let field = |field: &'b FieldColumn| types::FieldColumn {
            validity: &field.validity,
            values: &field.values,
            data: &field.data,
        };
        Self {
            headers: headers.iter().map(HeaderColumn::lend).collect(),
            value_fields: input.value_fields.iter().map(field).collect(),
        }
    }

    fn batch<'l>(&'l self, subscription: &Subscription, input: &TransformInput<'l>) -> types::Batch<'l> {
        let (batch, parts) = (input.batch, subscription.parts);
        debug_assert_eq!(
            self.value_fields.len(),
            subscription.value_fields.len(),
            "one column for each field subscribed"
        );
        types::Batch {
            count: u32::try_from(batch.len()).unwrap_or(u32::MAX),
            source: types::Source { topic: &batch.source.topic, partition: batch.source.partition.unsigned_abs() },
            values: parts.value.then(|| lend(&batch.values)),
            keys: parts.key.then(|| lend(&batch.keys)),
            headers: &self.headers,
            all_headers: parts.all_headers.then(|| lend(&batch.headers)),
            offsets: if parts.offset { bytemuck::cast_slice(&batch.offsets) } else { &[] },
            timestamps: if parts.timestamp { bytemuck::cast_slice(&batch.timestamps) } else { &[] },
            value_fields: &self.value_fields,
        }
    }
}

fn lend(column: &Column) -> types::Column<'_> {
    types::Column { spans: column.spans_bytes(), data: column.data() }
}

fn record_bytes(batch: &Batch, row: usize) -> usize {
    let cell = |column: &Column| column.get(row).map_or(0, <[u8]>::len);
    cell(&batch.keys) + cell(&batch.values) + cell(&batch.headers)
}

/// The values of one subscribed header.
#[derive(Debug, Default)]
struct HeaderColumn {
    spans: Vec<[u32; 2]>,
    data: Vec<u8>,
}

impl HeaderColumn {
    fn lend(&self) -> types::Column<'_> {
        types::Column { spans: bytemuck::cast_slice(&self.spans), data: &self.data }
    }
}

/// Picks the subscribed headers out of the packed ones; the last of several of one name is taken.
fn fill_headers(columns: &mut Vec<HeaderColumn>, names: &[String], batch: &Batch) {
    columns.resize_with(names.len(), HeaderColumn::default);
    for (column, name) in columns.iter_mut().zip(names) {
        column.spans.clear();
        column.data.clear();
        for row in 0..batch.len() {
            match last_header(batch.headers.get(row).unwrap_or_default(), name.as_bytes()) {
                None => column.spans.push([0, u32::MAX]),
                Some(value) => {
                    column.spans.push([column.data.len() as u32, value.len() as u32]);
                    column.data.extend_from_slice(value);
                }
            }
        }
    }
}

/// The value of the last header of a name among packed ones, which the host itself has packed; names that nobody asked
/// for are passed over unread.
fn last_header<'h>(packed: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    fn take<'h>(rest: &mut &'h [u8]) -> Option<Option<&'h [u8]>> {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length);
        if length == u32::MAX {
            *rest = after;
            return Some(None);
        }
        let (bytes, after) = after.split_at_checked(length as usize)?;
        *rest = after;
        Some(Some(bytes))
    }
    let mut rest = packed;
    let mut found = None;
    while let Some(header) = take(&mut rest) {
        let Some(value) = take(&mut rest) else { break };
        if header == Some(name) {
            found = value;
        }
    }
    found
}

fn not_started(store: &mut Store<State>, error: &wasmtime::Error) -> LoadError {
    if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
        return LoadError::Host { message: format!("too many plugins run at once: {error}") };
    }
    match fault(store, error) {
        Fault::Busy(message) => LoadError::Host { message },
        Fault::Trap { kind, message, backtrace } => {
            LoadError::Start { kind, message, backtrace, logs: store.data_mut().effects.take_last_lines() }
        }
    }
}

/// Says whose fault it was, and which.
fn fault(store: &Store<State>, error: &wasmtime::Error) -> Fault {
    let backtrace = error.downcast_ref::<WasmBacktrace>().map(frames).unwrap_or_default();
    let memory = &store.data().memory;
    let root = cut(error.root_cause().to_string());
    let (kind, message) = match error.downcast_ref::<LimitHit>() {
        Some(wall @ LimitHit::Wall { .. }) => return Fault::Busy(wall.to_string()),
        Some(cpu @ LimitHit::Cpu { .. }) => (TrapKind::CpuLimit, cpu.to_string()),
        Some(wait @ LimitHit::Wait { .. }) => (TrapKind::WaitLimit, wait.to_string()),
        None if memory.denied() => {
            let (used, limit) = (memory.used_bytes(), memory.limit_bytes());
            (
                TrapKind::MemoryLimit,
                format!("it has {used} bytes of memory and was denied more, its limit is {limit}: {root}"),
            )
        }
        None if root.contains("fuel allocated for hostcalls") => {
            (TrapKind::OutputLimit, format!("more bytes came out of it in one call than the host takes: {root}"))
        }
        // Instances, memories or tables by the hundred.
        None if root.contains("resource limit exceeded") => (TrapKind::MemoryLimit, root),
        None if error.downcast_ref::<Trap>().is_some() || !backtrace.is_empty() => (TrapKind::Trap, root),
        // Neither the guest nor a host function failed: what it passed could not be read.
        None => (TrapKind::InvalidOutput, root),
    };
    Fault::Trap { kind, message, backtrace }
}

/// One frame a line, innermost first, by the names in the component's name section.
fn frames(backtrace: &WasmBacktrace) -> String {
    let mut text = String::new();
    for frame in backtrace.frames() {
        let module = frame.module().name().unwrap_or("module");
        match frame.func_name() {
            Some(name) => {
                let mut name = format!("{:#}", rustc_demangle::demangle(name));
                name.truncate(name.floor_char_boundary(FRAME_BYTES_MAX));
                text.push_str(&name);
            }
            None => {
                let module = &module[..module.floor_char_boundary(FRAME_BYTES_MAX)];
                text.push_str(&format!("{module}[{}]", frame.func_index()));
            }
        }
        text.push('\n');
    }
    text
}
