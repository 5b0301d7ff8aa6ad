//! A plugin as a step of the line.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::Semaphore;

use super::artifact::{Description, describe};
use super::bindings::{TransformPre, waiting};
use super::effects::{MetricNames, cut};
use super::error::LoadError;
use super::http::Nobody;
use super::imports::{check_imports, linker};
use super::instance::{Instance, Plan, Pre};
use super::{Capability, Runtime, subscription};
use crate::config::{Grants, Limits, Mask};
use crate::egress::{Outgoing, Report};
use crate::pipeline::decode::Extractor;
use crate::pipeline::{LogLevel, LogLine, Subscription, Transform, TransformError, TransformInput, TransformOutput};
use crate::record::{Batch, Digest, TopicPartition};

/// Bytes of an artifact; a whole Python interpreter takes 18 MB.
const ARTIFACT_BYTES_MAX: u64 = 64 << 20;
/// Instances of a step that wait for others while every thread has work: each has its memory.
const WAITING_MAX: usize = 4;

/// One generation of a plugin: a compiled component with its configuration, grants and limits, and instances of it that
/// wait for a batch.
pub struct WasmTransform {
    name: String,
    description: Description,
    subscription: Subscription,
    plan: Plan,
    idle: Mutex<Vec<Instance>>,
    /// Instances that may be there at once.
    instances_max: usize,
    /// One for each of them, where they may wait.
    slots: Option<Arc<Semaphore>>,
    /// Its clock and its way out are there as long as the plugin is.
    _runtime: Arc<Runtime>,
    /// What the guest logged while it was configured.
    first_words: Vec<LogLine>,
}

impl WasmTransform {
    /// Reads, checks, compiles, links and configures a plugin. Takes seconds for a large one that is not in the cache:
    /// not for the data path.
    ///
    /// # Errors
    /// What is wrong with the file, its imports, its types, its configuration or its subscription.
    pub fn load(
        runtime: &Arc<Runtime>,
        name: &str,
        path: &Path,
        config: &serde_json::Value,
        grants: &Grants,
        limits: Limits,
    ) -> Result<Self, LoadError> {
        let bytes = read(path)?;
        Self::from_bytes(runtime, name, &bytes, config, grants, limits)
    }

    /// As [`Self::load`], from the bytes of the file.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_bytes(
        runtime: &Arc<Runtime>,
        name: &str,
        bytes: &[u8],
        config: &serde_json::Value,
        grants: &Grants,
        limits: Limits,
    ) -> Result<Self, LoadError> {
        let size = bytes.len() as u64;
        if size > ARTIFACT_BYTES_MAX {
            return Err(LoadError::TooLarge { size, max: ARTIFACT_BYTES_MAX });
        }
        let description = describe(bytes)?;
        if description.world != "transform" {
            return Err(LoadError::WrongWorld { exports: description.exports });
        }
        check_imports(&description, grants).map_err(LoadError::Refused)?;
        let plan = plan(runtime, name, bytes, &description, config, grants, limits)?;
        let (instance, given, logs) = Instance::start(&plan)?;
        let subscription = subscription::check(given).map_err(|problems| LoadError::Subscription { problems })?;
        let instances_max = instances_max(grants, runtime.compute_threads());
        let slots = plan.outgoing.is_some().then(|| Arc::new(Semaphore::new(instances_max)));
        Ok(Self {
            instances_max,
            slots,
            name: name.to_owned(),
            description,
            subscription,
            plan,
            idle: Mutex::new(vec![instance]),
            _runtime: Arc::clone(runtime),
            first_words: logs,
        })
    }

    /// Compiles a plugin, unless it is in the cache: loading it is quick then.
    ///
    /// # Errors
    /// Where the file cannot be read, or its code cannot be compiled.
    pub fn compile(runtime: &Arc<Runtime>, name: &str, path: &Path, limits: Limits) -> Result<(), LoadError> {
        let bytes = read(path)?;
        let digest = describe(&bytes)?.digest;
        runtime.component(name, &bytes, digest, limits.trusted).map(drop)
    }

    /// Calls it once, with a batch of no records: a plugin that cannot even do that is not fit for any.
    ///
    /// # Errors
    /// What it did instead.
    pub fn smoke(&self) -> Result<(), TransformError> {
        let batch = Batch::new(TopicPartition::new("none", 0));
        let columns: Vec<_> = Extractor::json(&self.subscription.value_fields).extract(&batch).columns;
        let input = TransformInput { batch: &batch, value_fields: &columns };
        let said = match self.slots {
            Some(_) => futures::executor::block_on(self.apply_waiting(input, true)),
            None => self.apply_fresh(&input),
        };
        said.map(drop)
    }

    /// What a plugin that lacks a grant says against its configuration, so that one mistake does not hide the other. What
    /// it is not granted is not there: a call of it is the end of the try, and nothing is known.
    #[must_use]
    pub fn refused_configuration(
        runtime: &Arc<Runtime>,
        path: &Path,
        config: &serde_json::Value,
        grants: &Grants,
        limits: Limits,
    ) -> Option<String> {
        let bytes = read(path).ok()?;
        let description = describe(&bytes).ok().filter(|description| description.world == "transform")?;
        let name = path.display().to_string();
        let plan = plan(runtime, &name, &bytes, &description, config, grants, limits).ok()?;
        match Instance::start(&plan) {
            Err(LoadError::Config { message }) => Some(message),
            _ => None,
        }
    }

    /// What the component says about itself.
    #[must_use]
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// Hands what the guest logged while it was configured to the log. A guest that has just read its configuration is
    /// apt to repeat it.
    pub fn tell_first_words(&self, mask: &Mask) {
        for line in &self.first_words {
            tell(&self.name, line.level, &mask.apply(&line.message));
        }
    }

    /// Tells somebody of every request that the plugin makes.
    pub fn report_requests(&self, report: Report) {
        if let Some(outgoing) = &self.plan.outgoing {
            outgoing.report_to(report);
        }
    }

    /// The plugin, with somebody else who answers its requests: canned answers, in its cases.
    #[must_use]
    pub fn answered_by(mut self, outgoing: Arc<dyn Outgoing>) -> Self {
        if self.plan.outgoing.is_some() {
            self.plan.outgoing = Some(outgoing);
        }
        self
    }

    /// Drops the instances that wait: the next batch meets a fresh one.
    pub fn drop_instances(&self) {
        self.idle().clear();
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Instance>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance for a batch.
    fn instance(&self) -> Result<Instance, TransformError> {
        let waiting = self.idle().pop();
        if let Some(instance) = waiting {
            return Ok(instance);
        }
        self.fresh_instance()
    }

    /// A guest that started once and cannot start now is not the record's fault.
    fn fresh_instance(&self) -> Result<Instance, TransformError> {
        let again = |reason: String| TransformError::Busy {
            message: format!("it cannot start again: {reason}"),
            logs: Vec::new(),
            cpu_ns: 0,
        };
        let (instance, given, _) = Instance::start(&self.plan).map_err(|error| again(error.to_string()))?;
        match subscription::check(given) {
            Ok(subscription) if subscription == self.subscription => Ok(instance),
            _ => Err(again("its `configure` answers otherwise than before".to_owned())),
        }
    }

    fn process(&self, mut instance: Instance, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        // What waits may hide the same harm.
        let output = instance.process(&self.plan, &self.subscription, input).inspect_err(|_| self.drop_instances())?;
        self.keep(instance);
        Ok(output)
    }

    async fn process_waiting(
        &self,
        mut instance: Instance,
        input: TransformInput<'_>,
    ) -> Result<TransformOutput, TransformError> {
        let said = instance.process_waiting(&self.plan, &self.subscription, input).await;
        let output = said.inspect_err(|_| self.drop_instances())?;
        self.keep(instance);
        Ok(output)
    }

    /// It takes the room of one that waits: there is room for so many instances and no more.
    fn instance_in_place_of_another(&self) -> Result<Instance, TransformError> {
        drop(self.idle().pop());
        self.fresh_instance()
    }

    /// Keeps an instance for the next batch, unless it has grown so much that a fresh one is the better neighbour:
    /// linear memory never shrinks.
    fn keep(&self, instance: Instance) {
        if instance.memory_bytes() > self.plan.limits.memory_bytes / 4 * 3 {
            return;
        }
        let mut idle = self.idle();
        if idle.len() < self.instances_max {
            idle.push(instance);
        }
    }
}

impl Transform for WasmTransform {
    fn name(&self) -> &str {
        &self.name
    }

    fn digest(&self) -> Digest {
        self.description.digest
    }

    fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    fn wall_limit(&self) -> std::time::Duration {
        // Beside its work, a guest may wait as long for others.
        self.plan.limits.wall_per_batch * if self.slots.is_some() { 2 } else { 1 }
    }

    fn apply(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        self.process(self.instance()?, input)
    }

    fn apply_fresh(&self, input: &TransformInput<'_>) -> Result<TransformOutput, TransformError> {
        self.process(self.instance_in_place_of_another()?, input)
    }

    fn slots(&self) -> Option<Arc<Semaphore>> {
        self.slots.clone()
    }

    fn apply_waiting<'a>(
        &'a self,
        input: TransformInput<'a>,
        fresh: bool,
    ) -> BoxFuture<'a, Result<TransformOutput, TransformError>> {
        Box::pin(async move {
            let instance = if fresh { self.instance_in_place_of_another()? } else { self.instance()? };
            self.process_waiting(instance, input).await
        })
    }
}

impl std::fmt::Debug for WasmTransform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmTransform").field("name", &self.name).field("digest", &self.description.digest).finish()
    }
}

/// Compiles a component and links what it is granted; what else it asks for is a trap.
fn plan(
    runtime: &Arc<Runtime>,
    name: &str,
    bytes: &[u8],
    description: &Description,
    config: &serde_json::Value,
    grants: &Grants,
    limits: Limits,
) -> Result<Plan, LoadError> {
    let component = runtime.component(name, bytes, description.digest, limits.trusted)?;
    let interface = |error: wasmtime::Error| LoadError::Interface { message: cut(format!("{error:#}")) };
    let mut linked = linker(&component, &description.capabilities, grants).map_err(interface)?;
    if description.capabilities.iter().any(|capability| !grants.contains(*capability)) {
        linked.define_unknown_imports_as_traps(&component).map_err(interface)?;
    }
    let imports = |capability| description.capabilities.contains(&capability);
    let linked = linked.instantiate_pre(&component).map_err(interface)?;
    let outgoing = imports(Capability::Http) && grants.contains(Capability::Http);
    let pre = match outgoing {
        true => Pre::Waiting(waiting::TransformWithHttpPre::new(linked).map_err(interface)?),
        false => Pre::Plain(TransformPre::new(linked).map_err(interface)?),
    };
    let outgoing: Option<Arc<dyn Outgoing>> = match &grants.http {
        _ if !outgoing => None,
        Some(grant) => Some(Arc::new(runtime.client(grant)?)),
        None => Some(Arc::new(Nobody)),
    };
    Ok(Plan {
        pre,
        limits,
        config_text: config.to_string(),
        config: Arc::new(top_level(config)),
        metric_names: Arc::<MetricNames>::default(),
        may_log: grants.contains(Capability::Log),
        clock: imports(Capability::Clock),
        random: imports(Capability::Random),
        outgoing,
    })
}

/// Instances of a step that are there at once: one for each thread, and where they wait for others some more, but no more
/// than requests may be under way: whoever waits is on no thread.
#[must_use]
pub fn instances_max(grants: &Grants, threads: usize) -> usize {
    let waiting = grants.http.as_ref().map_or(0, |http| http.concurrency.min(WAITING_MAX));
    threads + waiting
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size > ARTIFACT_BYTES_MAX {
        return Err(LoadError::TooLarge { size, max: ARTIFACT_BYTES_MAX });
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(ARTIFACT_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn top_level(config: &serde_json::Value) -> BTreeMap<String, String> {
    let Some(object) = config.as_object() else { return BTreeMap::new() };
    object.iter().map(|(key, value)| (key.clone(), value.to_string())).collect()
}

/// What a guest logs while it is configured belongs to no batch.
fn tell(plugin: &str, level: LogLevel, message: &str) {
    match level {
        LogLevel::Debug => tracing::debug!(plugin, "{message}"),
        LogLevel::Info => tracing::info!(plugin, "{message}"),
        LogLevel::Warn => tracing::warn!(plugin, "{message}"),
        LogLevel::Error => tracing::error!(plugin, "{message}"),
    }
}
