//! The engine that compiles and runs plugins: one for the process.
//!
//! In: where compiled plugins are kept, how many threads run them, and where they are compiled. Out: compiled components.
//! Compilation is waited for where [`WasmTransform::load`](super::WasmTransform::load) is called, which is never the data
//! path.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use tokio::time::Instant;
use wasmtime::component::Component;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::budget::TABLE_ELEMENTS_MAX;
use super::cache::Cache;
use super::compile::{self, Compiler};
use super::effects::cut;
use super::error::LoadError;
use crate::clock::seconds;
use crate::config::HttpGrant;
use crate::egress::{Client, Resolve, SystemResolver, Wire};
use crate::record::Digest;

/// How often a guest's CPU clock is looked at.
const TICK: Duration = Duration::from_millis(10);
/// Stack of a guest; a compute thread needs at least twice as much.
const STACK_BYTES: usize = 512 << 10;
/// The engine's own data about an instance.
const INSTANCE_BYTES_MAX: usize = 4 << 20;
/// Frames of a backtrace.
const FRAMES_MAX: usize = 64;
/// Linear memory that an instance's slot keeps mapped when the instance is gone.
const KEEP_RESIDENT_BYTES: usize = 4 << 20;

/// Compiles and runs plugins.
pub struct Runtime {
    interruptible: Engine,
    trusted: OnceLock<Engine>,
    cache: Option<Cache>,
    compiler: Compiler,
    compute_threads: usize,
    /// One compilation at a time: each uses all cores by itself.
    compiling: Mutex<()>,
    resolver: Arc<dyn Resolve>,
    /// The way out, from the first plugin on that has one.
    wire: OnceLock<Wire>,
    _ticker: Ticker,
}

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
#[error("the WebAssembly engine cannot be set up on this machine: {0}")]
pub struct RuntimeError(String);

impl Runtime {
    /// Sets the engine up, with a compiler in this process: for tests, and for tools that load what they have just built.
    ///
    /// # Errors
    /// As [`Self::with_compiler`].
    pub fn new(cache_dir: Option<&Path>, compute_threads: usize) -> Result<Arc<Self>, RuntimeError> {
        Self::with_compiler(cache_dir, compute_threads, Compiler::Here)
    }

    /// Sets the engine up, with a compiler that is this program run again, which must be `pelton`: for plugins that
    /// nobody has vouched for.
    ///
    /// # Errors
    /// As [`Self::with_compiler`].
    pub fn isolated(cache_dir: Option<&Path>, compute_threads: usize) -> Result<Arc<Self>, RuntimeError> {
        let compiler = Compiler::this_program().map_err(|error| RuntimeError(error.to_string()))?;
        Self::with_compiler(cache_dir, compute_threads, compiler)
    }

    /// Sets the engine up. Without a cache directory, or where it cannot be used, each start compiles plugins anew.
    ///
    /// # Errors
    /// Where this machine cannot run the engine at all.
    pub fn with_compiler(
        cache_dir: Option<&Path>,
        compute_threads: usize,
        compiler: Compiler,
    ) -> Result<Arc<Self>, RuntimeError> {
        Self::with_resolver(cache_dir, compute_threads, compiler, Arc::new(SystemResolver))
    }

    /// As [`Self::with_compiler`], with another way from the names of hosts to their addresses.
    ///
    /// # Errors
    /// As [`Self::with_compiler`].
    pub fn with_resolver(
        cache_dir: Option<&Path>,
        compute_threads: usize,
        compiler: Compiler,
        resolver: Arc<dyn Resolve>,
    ) -> Result<Arc<Self>, RuntimeError> {
        let interruptible = engine(true, compute_threads)?;
        let ticker = Ticker::start(interruptible.clone()).map_err(|error| RuntimeError(error.to_string()))?;
        Ok(Arc::new(Self {
            interruptible,
            trusted: OnceLock::new(),
            cache: cache_dir.and_then(Cache::open),
            compiler,
            compute_threads,
            compiling: Mutex::new(()),
            resolver,
            wire: OnceLock::new(),
            _ticker: ticker,
        }))
    }

    /// A way out as far as a grant reaches.
    pub(super) fn client(&self, grant: &HttpGrant) -> Result<Client, LoadError> {
        let failed = |message: String| LoadError::Host { message: format!("there is no way out: {message}") };
        let wire = match self.wire.get() {
            Some(wire) => wire,
            None => {
                let started = Wire::start(Arc::clone(&self.resolver)).map_err(|error| failed(error.to_string()))?;
                self.wire.get_or_init(|| started)
            }
        };
        Client::new(grant.clone(), wire).map_err(failed)
    }

    /// Threads that call plugins at once, each with an instance of its own.
    #[must_use]
    pub fn compute_threads(&self) -> usize {
        self.compute_threads
    }

    /// The engine for a plugin; a trusted one runs where nothing interrupts it.
    fn engine(&self, trusted: bool) -> Result<&Engine, LoadError> {
        if !trusted {
            return Ok(&self.interruptible);
        }
        if let Some(engine) = self.trusted.get() {
            return Ok(engine);
        }
        let made =
            engine(false, self.compute_threads).map_err(|error| LoadError::Host { message: error.to_string() })?;
        Ok(self.trusted.get_or_init(|| made))
    }

    /// A component, from the cache where it is there; else it is compiled, and the log says so before and after.
    pub(super) fn component(
        &self,
        plugin: &str,
        bytes: &[u8],
        digest: Digest,
        trusted: bool,
    ) -> Result<Component, LoadError> {
        let engine = self.engine(trusted)?;
        if let Some(component) = self.cached(engine, digest) {
            return Ok(component);
        }
        let _one_at_a_time = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(component) = self.cached(engine, digest) {
            return Ok(component);
        }
        let began = Instant::now();
        tracing::info!(plugin, "compiling, which later starts need not");
        let image = match &self.compiler {
            Compiler::Here => engine
                .precompile_component(bytes)
                .map_err(|error| LoadError::Compile { message: cut(format!("{error:#}")) })?,
            Compiler::Child(program) => compile::in_child(program, bytes, trusted)?,
        };
        tracing::info!(plugin, seconds = seconds(began.elapsed()), "compiled");
        if let Some(cache) = &self.cache {
            cache.put(digest, engine, &image);
        }
        load(engine, &image)
            .map_err(|error| LoadError::Compile { message: cut(format!("this engine does not run it: {error:#}")) })
    }

    fn cached(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let cache = self.cache.as_ref()?;
        let image = cache.get(digest, engine)?;
        load(engine, &image)
            .inspect_err(|error| {
                tracing::warn!(%error, "a compiled plugin does not fit this engine: it is compiled anew");
                cache.forget(digest, engine);
            })
            .ok()
    }
}

/// Makes a component of an image that our own compiler has made: just now, or earlier, kept in the cache.
fn load(engine: &Engine, image: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the engine runs such an image as machine code, so it must be one that an engine of these settings has
    // made. Two places give images: the compiler (this process, or a child that runs this same program and hands the
    // image over a pipe that nobody else holds), and the cache. The cache gives out only what `Cache::put` wrote under
    // the same digest and settings (both are in the file's name), into a directory that no other user may write to, and
    // verified the image's SHA-256. In each case the bytes passed here are in our memory, not in a file that could
    // still change.
    #[expect(unsafe_code, reason = "the one place that runs machine code; see above")]
    let loaded = unsafe { Component::deserialize(engine, image) };
    loaded
}

fn engine(interruptible: bool, compute_threads: usize) -> Result<Engine, RuntimeError> {
    let pooled = Engine::new(
        config(interruptible).allocation_strategy(InstanceAllocationStrategy::Pooling(pool(compute_threads))),
    );
    match pooled {
        Ok(engine) => Ok(engine),
        Err(error) => {
            tracing::warn!(
                %error,
                "no pool of instances: each is allocated on demand, which is slower (is the address space limited?)"
            );
            Engine::new(&config(interruptible)).map_err(|error| RuntimeError(format!("{error:#}")))
        }
    }
}

/// The settings that an image depends on. How instances are allocated is not among them.
pub(super) fn config(interruptible: bool) -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(interruptible)
        .max_wasm_stack(STACK_BYTES)
        // A replay on another CPU must see the same: no instruction may leave a choice to the machine.
        .relaxed_simd_deterministic(true)
        .cranelift_nan_canonicalization(true)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(FRAMES_MAX));
    config
}

/// Room for the instances of many plugins on every compute thread, two generations of each. A slot costs address space,
/// not memory.
fn pool(compute_threads: usize) -> PoolingAllocationConfig {
    let components = (compute_threads.saturating_mul(64)).clamp(128, 1024) as u32;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(components)
        // An interpreter brings tens of core modules, and large tables.
        .total_core_instances(components * 16)
        .total_memories(components * 2)
        .total_tables(components * 8)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_core_instance_size(INSTANCE_BYTES_MAX)
        .max_component_instance_size(INSTANCE_BYTES_MAX)
        .max_unused_warm_slots(16)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Moves the epoch until it is dropped.
struct Ticker {
    _stop: mpsc::Sender<()>,
}

impl Ticker {
    fn start(engine: Engine) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        std::thread::Builder::new().name("plugin-ticker".to_owned()).spawn(move || {
            while stopped.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                engine.increment_epoch();
            }
        })?;
        Ok(Self { _stop: stop })
    }
}
