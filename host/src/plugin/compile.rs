//! Compiling under limits: what a plugin's code costs the compiler is not the daemon's to bear.
//!
//! In: the bytes of a component. Out: its compiled image, or which limit the compiler met. Machine code is made in a
//! child process, which is this very program run again: it gives itself limits of CPU time and memory, and the last
//! place in the queue for a core, before it reads a byte; its parent stops it at a wall deadline. Whatever hostile code
//! makes of a compiler (an hour's work, all of the memory, the end of its stack, a fault of the compiler's own) ends
//! with that process. Never decides what is compiled, and keeps nothing.

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, nice, set_parent_process_death_signal, setrlimit};
use wasmtime::Engine;

use super::effects::cut;
use super::error::LoadError;
use super::runtime::config;

/// The verb of this program that compiles one plugin and ends.
pub const VERB: &str = "compile-plugin";

/// Bytes of what the child says about its end.
const WORDS_BYTES_MAX: u64 = 64 << 10;

/// Where plugins are compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compiler {
    /// In this process, without limits: for tests, and for tools that load nothing but what they have just built.
    Here,
    /// In a child process, under limits. The program takes the verb [`VERB`] as `pelton` does.
    Child(PathBuf),
}

impl Compiler {
    /// A child that is this very program, which must be `pelton`: also after its file was replaced by another version.
    ///
    /// # Errors
    /// Where the system does not say which program this is.
    pub fn this_program() -> io::Result<Self> {
        let running = Path::new("/proc/self/exe");
        Ok(Self::Child(if running.exists() { running.to_owned() } else { std::env::current_exe()? }))
    }
}

/// What one compilation may cost. Honest code needs a hundredth of the CPU time and a tenth of the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// CPU time of all threads, seconds.
    pub cpu_s: u64,
    /// Memory that can be written to, bytes.
    pub memory_bytes: u64,
}

impl CompileLimits {
    /// What is set aside for a component of that size. Python's interpreter (18 MB) takes 12 s and some 600 MB.
    #[must_use]
    pub fn of(component_bytes: usize) -> Self {
        let bytes = component_bytes as u64;
        Self { cpu_s: 20 + 5 * (bytes >> 20), memory_bytes: (512 << 20) + 48 * bytes }
    }

    /// Wall time until the child is stopped: it comes last where others want the cores.
    fn wall(self) -> Duration {
        Duration::from_secs(60 + 4 * self.cpu_s)
    }

    /// Bytes of the image that the parent takes.
    fn image_bytes_max(component_bytes: usize) -> u64 {
        (16 << 20) + 8 * component_bytes as u64
    }
}

/// How the child ended, as far as it concerns its parent.
enum End {
    /// Its whole answer was read.
    Answered(Vec<u8>),
    /// It was stopped at the wall deadline.
    TooSlow,
    /// It was stopped because its answer had no end.
    TooLarge,
}

/// Compiles in a child process.
///
/// # Errors
/// What the compiler found wrong with the component, the limit that it met, or why there is no child.
pub(super) fn in_child(program: &Path, bytes: &[u8], trusted: bool) -> Result<Vec<u8>, LoadError> {
    let limits = CompileLimits::of(bytes.len());
    let no_child = |error: io::Error| LoadError::Host { message: format!("no process to compile it in: {error}") };
    let mut command = Command::new(program);
    command
        .arg(VERB)
        .args(["--cpu-seconds", &limits.cpu_s.to_string(), "--memory-bytes", &limits.memory_bytes.to_string()])
        .args(trusted.then_some("--trusted"))
        // The environment holds secrets, and none of it is the compiler's business but where libraries are.
        .env_clear()
        .envs(std::env::var_os("LD_LIBRARY_PATH").map(|path| ("LD_LIBRARY_PATH", path)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(no_child)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let image_bytes_max = CompileLimits::image_bytes_max(bytes.len());
    let (end, words, status) = std::thread::scope(|scope| {
        // A child that ends early reads no further: its end says why.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(bytes)));
        let words = scope.spawn(move || stderr.map_or_else(Vec::new, |stderr| head(stderr, WORDS_BYTES_MAX)));
        let (read, answer) = mpsc::channel();
        scope.spawn(move || read.send(stdout.map_or_else(Vec::new, |out| head_only(out, image_bytes_max + 1))));
        let end = match answer.recv_timeout(limits.wall()) {
            Ok(image) if image.len() as u64 > image_bytes_max => End::TooLarge,
            Ok(image) => End::Answered(image),
            Err(_) => End::TooSlow,
        };
        if !matches!(end, End::Answered(_)) {
            // It may have ended by itself just now.
            let _ = child.kill();
        }
        let status = child.wait();
        (end, words.join().unwrap_or_default(), status)
    });
    let too_costly = |message: String| Err(LoadError::TooCostly { message });
    match (end, status.map_err(no_child)?) {
        (End::Answered(image), status) if status.success() => Ok(image),
        (End::Answered(_), status) => Err(failed(limits, status, &String::from_utf8_lossy(&words))),
        (End::TooSlow, _) => too_costly(format!("the compiler was not done after {} s", limits.wall().as_secs())),
        (End::TooLarge, _) => too_costly(format!("more than {} MiB of machine code", image_bytes_max >> 20)),
    }
}

/// Why the child ended without an image.
fn failed(limits: CompileLimits, status: ExitStatus, words: &str) -> LoadError {
    use std::os::unix::process::ExitStatusExt as _;
    if status.code() == Some(1) {
        return LoadError::Compile { message: cut(words.trim().trim_start_matches("error: ").to_owned()) };
    }
    let signal = status.signal();
    let is = |expected: Signal| signal == Some(expected.as_raw());
    let message = if is(Signal::XCPU) || is(Signal::KILL) {
        format!("the compiler used up {} s of CPU time, or was killed from outside", limits.cpu_s)
    } else if words.contains("memory allocation") || words.contains("Cannot allocate memory") {
        format!("the compiler needed more than {} MiB of memory", limits.memory_bytes >> 20)
    } else {
        format!("the compiler failed ({status}): {}", cut(words.trim().to_owned()))
    };
    LoadError::TooCostly { message }
}

/// The first bytes of a stream; the rest is read and dropped, so that who writes it is not held up.
fn head(mut stream: impl Read, bytes_max: u64) -> Vec<u8> {
    let mut head = Vec::new();
    // What could not be read was not said.
    let _ = stream.by_ref().take(bytes_max).read_to_end(&mut head);
    let _ = io::copy(&mut stream, &mut io::sink());
    head
}

/// The first bytes of a stream, and no more.
fn head_only(stream: impl Read, bytes_max: u64) -> Vec<u8> {
    let mut head = Vec::new();
    let _ = stream.take(bytes_max).read_to_end(&mut head);
    head
}

/// The child's side: limits itself, reads a component to its end, and answers with its image.
///
/// # Errors
/// What is wrong with the component, or why the limits cannot be set.
pub fn compile_plugin(limits: CompileLimits, trusted: bool, mut input: impl Read) -> Result<Vec<u8>, String> {
    limit_this_process(limits).map_err(|error| format!("the limits of a compilation cannot be set: {error}"))?;
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error| format!("the component cannot be read: {error}"))?;
    let engine = Engine::new(&config(!trusted)).map_err(|error| format!("{error:#}"))?;
    engine.precompile_component(&bytes).map_err(|error| format!("{error:#}"))
}

fn limit_this_process(limits: CompileLimits) -> io::Result<()> {
    // The parent's end would leave nobody who wants the answer.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    lower(Resource::Cpu, limits.cpu_s)?;
    lower(Resource::Data, limits.memory_bytes)?;
    lower(Resource::Core, 0)?;
    // Records go first.
    nice(10)?;
    Ok(())
}

/// Lowers a limit; one that is lower already stays.
fn lower(resource: Resource, to: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(to, |most| most.min(to));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}
