//! The trait that a plugin implements, and the loop that carries a batch through it.

use std::fmt;

use serde::de::DeserializeOwned;

use crate::bindings::pelton::plugin::types;
use crate::columns::Columns;
use crate::input::{BatchReader, Input, Subscriber};
use crate::step::{Failure, FailureKind, Fate, Op, Row, Step};

/// A stream transform: a function from a record to what should happen with it.
///
/// The outcome of a record must depend on the record and the configuration alone, never on its neighbours or on what was
/// seen before: batches are cut anywhere, repeated, and handled by as many instances as the host likes.
pub trait Transform: Sized + 'static {
    /// The `config:` block of the pipeline file. `()` where there is none.
    type Config: DeserializeOwned;
    /// What is read of each record: a struct with `#[derive(Fields)]`, [`Record`](crate::Record), `()`, or a tuple.
    type Input<'a>: Input<'a>;
    /// What is set: a struct with `#[derive(Columns)]`, or `()`.
    type Output<'a>: Columns;

    /// The named outputs that rows may be sent to with [`Step::to`] and [`Step::also_to`]. A batch with a row for another
    /// one fails, and says so.
    const OUTPUTS: &'static [&'static str] = &[];

    /// Checks the configuration and makes an instance. An error refuses the plugin with its message.
    ///
    /// # Errors
    /// Where the configuration makes no sense.
    fn new(config: Self::Config) -> Result<Self, ConfigError>;

    /// Sees the records of a batch before each of them is decided: to ask others once for all of them, as
    /// [`http`](crate::http) shows. What is kept here must not make a record depend on its neighbours.
    fn prepare<'a>(&'a self, _batch: Inputs<'a, '_, Self>) {}

    /// Decides what happens with a record.
    fn apply<'a>(&'a self, input: Self::Input<'a>) -> Step<Self::Output<'a>>;
}

/// The records of a batch that can be read, one after the other.
pub struct Inputs<'a, 'r, T: Transform> {
    rows: &'r <T::Input<'a> as Input<'a>>::Rows,
    left: std::ops::Range<usize>,
}

impl<'a, T: Transform> Iterator for Inputs<'a, '_, T> {
    type Item = T::Input<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let rows = self.rows;
        self.left.by_ref().find_map(|row| <T::Input<'a>>::read(rows, row).ok())
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    /// A message for the operator.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// A message about one key: what was found, and what to write instead.
    #[must_use]
    pub fn key(key: &str, message: impl fmt::Display) -> Self {
        Self(format!("{key}: {message}"))
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl From<String> for ConfigError {
    fn from(message: String) -> Self {
        Self(message)
    }
}

impl From<&str> for ConfigError {
    fn from(message: &str) -> Self {
        Self(message.to_owned())
    }
}

/// What `configure` does.
///
/// # Errors
/// Where the configuration does not fit or is refused.
#[doc(hidden)]
pub fn configure<T: Transform>(config: &str) -> Result<(T, types::Subscription), String> {
    let transform = T::new(read_config(config)?).map_err(|error| error.to_string())?;
    let mut subscriber = Subscriber::new(T::OUTPUTS);
    <T::Input<'static>>::subscribe(&mut subscriber);
    <T::Output<'static>>::subscribe(&mut subscriber);
    Ok((transform, subscriber.finish()))
}

/// An absent block reads as an empty one, so that what is missing is named.
fn read_config<C: DeserializeOwned>(config: &str) -> Result<C, String> {
    match parse(config) {
        Err(_) if config.trim() == "null" => parse("{}"),
        read => read,
    }
}

/// An error names the key that it is about, as [`ConfigError::key`] does: `alert.above_eur: invalid type: …`.
fn parse<C: DeserializeOwned>(config: &str) -> Result<C, String> {
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(config)).map_err(|error| {
        let message = without_place(&error.inner().to_string());
        match error.path().to_string() {
            // The block itself.
            path if path == "." => message,
            path => format!("{path}: {message}"),
        }
    })
}

/// Line and column of the JSON text mean nothing to someone who wrote YAML.
fn without_place(text: &str) -> String {
    text.rsplit_once(" at line ").map_or(text, |(message, _)| message).to_owned()
}

/// What `process` does.
///
/// # Errors
/// Where a row is sent to an output that the plugin does not declare.
#[doc(hidden)]
pub fn process<'a, T: Transform>(transform: &'a T, batch: &'a types::Batch) -> Result<types::Output, types::Error> {
    let count = batch.count as usize;
    let rows = <T::Input<'a>>::open(&mut BatchReader::new(batch));
    transform.prepare(Inputs { rows: &rows, left: 0..count });
    let mut out = OutputWriter::<T::Output<'a>>::new(T::OUTPUTS, count);
    for row in 0..count {
        // The host counts rows in u32.
        let number = row as u32;
        crate::host::enter_row(number);
        match <T::Input<'a>>::read(&rows, row) {
            Ok(input) => out.push(number, transform.apply(input)),
            Err(failure) => out.fail(number, failure),
        }
    }
    crate::host::leave_rows();
    match out.undeclared {
        Some(output) => Err(types::Error::Fatal(undeclared(output, T::OUTPUTS))),
        None => Ok(out.finish()),
    }
}

/// A mistake of the plugin's author, which no record can cause: what to write.
#[cold]
fn undeclared(output: &str, declared: &[&str]) -> String {
    let mut all = declared.to_vec();
    all.push(output);
    format!(
        "a row is sent to output {output:?}, which the plugin does not declare; write in its `impl Transform`: \
         const OUTPUTS: &'static [&'static str] = &{all:?};"
    )
}

/// The output under way: which rows leave, and their set fields.
struct OutputWriter<O: Columns> {
    outputs: &'static [&'static str],
    count: usize,
    selection: Selection,
    data: Vec<u8>,
    columns: O::Writer,
    failures: Vec<types::Failure>,
    /// An output that a row was sent to and that is not among `outputs`.
    undeclared: Option<&'static str>,
}

/// The smallest shape that can say what leaves, packed as it crosses.
enum Selection {
    /// Of the records so far each as it came, to the default output: so many.
    All(u32),
    /// Only kept rows, to the default output.
    Kept(Vec<u8>),
    /// Anything: row, op and route, offset, length each.
    Edits(Vec<u8>),
}

impl Selection {
    /// Kept rows of a batch of `count` records.
    fn kept(rows: u32, count: usize) -> Vec<u8> {
        let mut table = Vec::with_capacity(4 * count);
        for row in 0..rows {
            table.extend_from_slice(&row.to_le_bytes());
        }
        table
    }

    /// The same rows as edits.
    fn edits(&self, count: usize) -> Vec<u8> {
        let mut table = Vec::with_capacity(16 * count);
        match self {
            Self::All(rows) => {
                (0..*rows).for_each(|row| table.extend_from_slice(&edit(row.to_le_bytes(), OP_KEEP, [0, 0])))
            }
            Self::Kept(rows) => {
                rows.as_chunks().0.iter().for_each(|row| table.extend_from_slice(&edit(*row, OP_KEEP, [0, 0])));
            }
            Self::Edits(edits) => table.extend_from_slice(edits),
        }
        table
    }
}

/// One edit.
fn edit(row: [u8; 4], op: u32, [offset, length]: [u32; 2]) -> [u8; 16] {
    let mut packed = [0; 16];
    let words = [row, op.to_le_bytes(), offset.to_le_bytes(), length.to_le_bytes()];
    packed.copy_from_slice(words.as_flattened());
    packed
}

const OP_KEEP: u32 = 0;
const OP_REPLACE: u32 = 1;
const OP_TOMBSTONE: u32 = 2;
const OP_EMIT: u32 = 3;
const OP_DELETE: u32 = 4;
const OP_NEW: u32 = 5;

impl<O: Columns> OutputWriter<O> {
    fn new(outputs: &'static [&'static str], count: usize) -> Self {
        Self {
            outputs,
            count,
            selection: Selection::All(0),
            data: Vec::new(),
            columns: O::writer(count),
            failures: Vec::new(),
            undeclared: None,
        }
    }

    fn push(&mut self, number: u32, step: Step<O>) {
        match step.0 {
            Fate::Drop => {}
            Fate::One(row) => self.push_row(number, &row),
            Fate::Many(rows) => rows.iter().for_each(|row| self.push_row(number, row)),
            Fate::Fail(failure) => self.fail(number, failure),
        }
    }

    fn push_row(&mut self, number: u32, row: &Row<O>) {
        let (op, span) = self.write_op(&row.op);
        self.select(number, op, row.output, span);
        self.write_columns(&row.op);
        for output in &row.also {
            self.select(number, op, output, span);
            self.write_columns(&row.op);
        }
    }

    fn write_op(&mut self, op: &Op<O>) -> (u32, [u32; 2]) {
        let start = self.data.len();
        let op = match op {
            Op::Keep | Op::Set(_) => OP_KEEP,
            Op::New(_) => OP_NEW,
            Op::Replace(value) => {
                self.data.extend_from_slice(value);
                OP_REPLACE
            }
            Op::Tombstone => OP_TOMBSTONE,
            Op::Record(record) => {
                record.pack(&mut self.data);
                OP_EMIT
            }
            Op::Delete(_) => OP_DELETE,
        };
        let place = |length: usize| u32::try_from(length).expect("a batch's output is capped far below 4 GiB");
        let span = match op {
            OP_REPLACE | OP_EMIT => [place(start), place(self.data.len() - start)],
            _ => [0, 0],
        };
        (op, span)
    }

    fn write_columns(&mut self, op: &Op<O>) {
        match op {
            Op::Set(columns) | Op::New(columns) | Op::Delete(Some(columns)) => columns.push(&mut self.columns),
            _ => O::push_nothing(&mut self.columns),
        }
    }

    fn select(&mut self, number: u32, op: u32, output: &'static str, span: [u32; 2]) {
        let route = if output.is_empty() { 0 } else { self.route(output) };
        let is_kept = op == OP_KEEP && route == 0;
        match &mut self.selection {
            Selection::All(rows) if is_kept && *rows == number => *rows += 1,
            Selection::Kept(rows) if is_kept => rows.extend_from_slice(&number.to_le_bytes()),
            Selection::Edits(edits) => edits.extend_from_slice(&edit(number.to_le_bytes(), op | route << 8, span)),
            Selection::All(rows) if is_kept => {
                let mut rows = Selection::kept(*rows, self.count);
                rows.extend_from_slice(&number.to_le_bytes());
                self.selection = Selection::Kept(rows);
            }
            others => {
                let mut edits = others.edits(self.count);
                edits.extend_from_slice(&edit(number.to_le_bytes(), op | route << 8, span));
                self.selection = Selection::Edits(edits);
            }
        }
    }

    fn route(&mut self, output: &'static str) -> u32 {
        let declared = (1..).zip(self.outputs).find(|(_, name)| **name == output);
        declared.map(|(route, _)| route).unwrap_or_else(|| {
            self.undeclared = Some(output);
            0
        })
    }

    #[cold]
    fn fail(&mut self, row: u32, failure: Failure) {
        let kind = match failure.kind {
            FailureKind::Reject => types::FailureKind::Reject,
            FailureKind::Retry(delay) => {
                types::FailureKind::Retry(u32::try_from(delay.as_millis()).unwrap_or(u32::MAX))
            }
            FailureKind::Skip => types::FailureKind::Skip,
        };
        self.failures.push(types::Failure { row, kind, code: failure.code.into_owned(), message: failure.message });
    }

    fn finish(self) -> types::Output {
        let rows = match self.selection {
            Selection::All(rows) if rows as usize == self.count => types::Selection::All,
            Selection::All(rows) => types::Selection::Kept(Selection::kept(rows, rows as usize)),
            Selection::Kept(rows) => types::Selection::Kept(rows),
            Selection::Edits(edits) => types::Selection::Edits(edits),
        };
        types::Output { rows, data: self.data, set_fields: O::finish(self.columns), failures: self.failures }
    }
}

/// Makes the component's exports from a type that implements [`Transform`]. Once in a crate.
///
/// On other targets than WebAssembly it exports nothing, so that the same crate runs in `cargo test`.
#[macro_export]
macro_rules! export {
    ($transform:ty) => {
        const _: () = {
            struct PeltonPlugin;

            ::std::thread_local! {
                static INSTANCE: ::std::cell::OnceCell<$transform> = const { ::std::cell::OnceCell::new() };
            }

            impl $crate::bindings::Guest for PeltonPlugin {
                fn configure(
                    settings: $crate::bindings::Settings,
                ) -> ::std::result::Result<$crate::bindings::Subscription, ::std::string::String> {
                    let (transform, subscription) = $crate::transform::configure::<$transform>(&settings.config)?;
                    INSTANCE.with(|instance| instance.set(transform)).map_err(|_| "configured twice")?;
                    ::std::result::Result::Ok(subscription)
                }

                fn process(
                    batch: $crate::bindings::Batch,
                ) -> ::std::result::Result<$crate::bindings::Output, $crate::bindings::Error> {
                    INSTANCE.with(|instance| match instance.get() {
                        ::std::option::Option::Some(transform) => $crate::transform::process(transform, &batch),
                        ::std::option::Option::None => ::std::result::Result::Err($crate::bindings::Error::Fatal(
                            "process was called before configure".into(),
                        )),
                    })
                }
            }

            $crate::__export_component!(PeltonPlugin);
        };
    };
}

#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_component {
    ($plugin:ident) => {
        $crate::bindings::export_component!($plugin with_types_in $crate::bindings);
    };
}

#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_component {
    ($plugin:ident) => {
        // The type is used, so that nothing warns; nothing is exported.
        const _: ::std::marker::PhantomData<$plugin> = ::std::marker::PhantomData;
    };
}
