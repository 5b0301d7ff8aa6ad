//! An inert shell of WASI, for guests whose language cannot be built without it.
//!
//! In: a component that imports interfaces of `wasi:` 0.2. Out: functions that answer as an empty, sealed room would: no
//! environment, no arguments, no directories, no terminals. Standard output and error become lines for the operator,
//! hash seeds are constant. Whatever else is called (a file, a clock, secret randomness, `exit`) traps and says
//! its name. Nothing here is a capability: a plugin gains nothing by importing it. A component says by itself which types
//! these functions have, and what it passes is read by those: a component whose types could make little of its memory
//! into much of the host's is refused.

use wasmtime::component::types::{ComponentFunc, ComponentItem, Type};
use wasmtime::component::{Component, Linker, LinkerInstance, Resource, ResourceAny, ResourceType, Val};
use wasmtime::{AsContextMut as _, StoreContextMut};

use super::artifact::Interface;
use super::state::{Misuse, State};
use crate::pipeline::LogLevel;

/// Packages that the shell covers. No language's runtime needs `wasi:sockets` to start: who imports it is refused.
const PACKAGES: [&str; 5] = ["wasi:cli", "wasi:clocks", "wasi:filesystem", "wasi:io", "wasi:random"];

/// Bytes that a guest may write to a stream at once.
const WRITE_BYTES_MAX: u64 = 64 << 10;

/// Parts of all parameters of one function, those of records and variants counted one by one.
const PARTS_MAX: usize = 200;

/// A standard stream of the guest.
struct Stream;

/// Whether a component may import this interface without a grant.
pub(super) fn is_in_shell(interface: &Interface<'_>) -> bool {
    PACKAGES.contains(&interface.package) && interface.version.is_some_and(|version| version.starts_with("0.2."))
}

/// Links the shell, as far as the component asks for it.
pub(super) fn add_shell(linker: &mut Linker<State>, component: &Component) -> wasmtime::Result<()> {
    let engine = component.engine().clone();
    for (name, import) in component.component_type().imports(&engine) {
        let Some(interface) = Interface::parse(name).filter(is_in_shell) else { continue };
        let ComponentItem::ComponentInstance(items) = import.ty else { continue };
        let mut instance = linker.instance(name)?;
        for (item, kind) in items.exports(&engine) {
            match kind.ty {
                ComponentItem::ComponentFunc(function) => add_function(&mut instance, &interface, item, &function)?,
                ComponentItem::Resource(_) if item == "output-stream" => {
                    instance.resource(item, ResourceType::host::<Stream>(), |_, _| Ok(()))?;
                }
                ComponentItem::Resource(_) => instance.resource(item, ResourceType::host::<()>(), |_, _| Ok(()))?,
                _ => {}
            }
        }
    }
    Ok(())
}

fn add_function(
    instance: &mut LinkerInstance<'_, State>,
    interface: &Interface<'_>,
    function: &str,
    types: &ComponentFunc,
) -> wasmtime::Result<()> {
    let full = format!("{}/{}#{function}", interface.package, interface.name);
    let mut parts = PARTS_MAX;
    if !types.params().all(|(_, parameter)| is_plain(&parameter, &mut parts)) {
        return Err(wasmtime::Error::new(Misuse(format!(
            "`{full}` takes lists of more than numbers, or hundreds of parts, which no function of WASI's needs here"
        ))));
    }
    match answer_of(&full) {
        Some(answer) => instance.func_new(function, move |mut store, _, params, results| {
            if let Some(value) = answer(&mut store, params)? {
                set(results, value);
            }
            Ok(())
        }),
        None => instance.func_new(function, move |_, _, _, _| {
            Err(wasmtime::Error::new(Misuse(format!(
                "`{full}` was called: a plugin has no files, clocks or secrets but what it is granted"
            ))))
        }),
    }
}

/// Whether what is passed as this type stays small, or is one run of numbers or handles: of lists within lists a few
/// hundred bytes of a guest's memory can make millions. Counts the parts of the type down.
fn is_plain(parameter: &Type, parts: &mut usize) -> bool {
    let Some(left) = parts.checked_sub(1) else { return false };
    *parts = left;
    match parameter {
        Type::List(list) => !matches!(
            list.ty(),
            Type::String
                | Type::List(_)
                | Type::Map(_)
                | Type::Record(_)
                | Type::Tuple(_)
                | Type::Variant(_)
                | Type::Option(_)
                | Type::Result(_)
                | Type::Flags(_)
                | Type::Future(_)
                | Type::Stream(_)
                | Type::FixedLengthList(_)
        ),
        Type::Record(record) => record.fields().all(|field| is_plain(&field.ty, parts)),
        Type::Tuple(tuple) => tuple.types().all(|part| is_plain(&part, parts)),
        Type::Variant(variant) => variant.cases().filter_map(|case| case.ty).all(|part| is_plain(&part, parts)),
        Type::Option(option) => is_plain(&option.ty(), parts),
        Type::Result(result) => result.ok().into_iter().chain(result.err()).all(|part| is_plain(&part, parts)),
        Type::Map(_) | Type::Future(_) | Type::Stream(_) | Type::FixedLengthList(_) => false,
        _ => true,
    }
}

fn set(results: &mut [Val], value: Val) {
    if let Some(result) = results.first_mut() {
        *result = value;
    }
}

type Answer = fn(&mut StoreContextMut<'_, State>, &[Val]) -> wasmtime::Result<Option<Val>>;

/// The functions that do something; all others trap.
fn answer_of(full: &str) -> Option<Answer> {
    Some(match full {
        "wasi:cli/environment#get-environment"
        | "wasi:cli/environment#get-arguments"
        | "wasi:filesystem/preopens#get-directories" => |_, _| Ok(Some(Val::List(Vec::new()))),
        "wasi:cli/environment#initial-cwd"
        | "wasi:cli/terminal-stdin#get-terminal-stdin"
        | "wasi:cli/terminal-stdout#get-terminal-stdout"
        | "wasi:cli/terminal-stderr#get-terminal-stderr" => |_, _| Ok(Some(Val::Option(None))),
        "wasi:cli/stdout#get-stdout" => |store, _| stream(store, STDOUT).map(Some),
        "wasi:cli/stderr#get-stderr" => |store, _| stream(store, STDERR).map(Some),
        "wasi:io/streams#[method]output-stream.check-write" => |_, _| Ok(Some(ok(Some(Val::U64(WRITE_BYTES_MAX))))),
        "wasi:io/streams#[method]output-stream.flush" | "wasi:io/streams#[method]output-stream.blocking-flush" => {
            |_, _| Ok(Some(ok(None)))
        }
        "wasi:io/streams#[method]output-stream.write"
        | "wasi:io/streams#[method]output-stream.blocking-write-and-flush" => |store, params| {
            write(store, params)?;
            Ok(Some(ok(None)))
        },
        "wasi:random/insecure-seed#insecure-seed" => {
            |_, _| Ok(Some(Val::Tuple(vec![Val::U64(0x7065_6c74_6f6e_0001), Val::U64(0x7065_6c74_6f6e_0002)])))
        }
        _ => return None,
    })
}

const STDOUT: u32 = 1;
const STDERR: u32 = 2;

fn ok(value: Option<Val>) -> Val {
    Val::Result(Ok(value.map(Box::new)))
}

fn stream(store: &mut StoreContextMut<'_, State>, which: u32) -> wasmtime::Result<Val> {
    let stream: ResourceAny = Resource::<Stream>::new_own(which).try_into_resource_any(store.as_context_mut())?;
    Ok(Val::Resource(stream))
}

/// What a guest writes to a standard stream: log lines where it may log, else kept for the case that it traps.
fn write(store: &mut StoreContextMut<'_, State>, params: &[Val]) -> wasmtime::Result<()> {
    let [Val::Resource(stream), Val::List(bytes)] = params else {
        return Err(wasmtime::Error::new(Misuse("a write without bytes".to_owned())));
    };
    let stream = Resource::<Stream>::try_from_resource_any(*stream, store.as_context_mut())?;
    let level = if stream.rep() == STDERR { LogLevel::Error } else { LogLevel::Info };
    let bytes: Vec<u8> = bytes.iter().map(|byte| if let Val::U8(byte) = byte { *byte } else { 0 }).collect();
    let state = store.data_mut();
    for line in String::from_utf8_lossy(&bytes).lines().filter(|line| !line.is_empty()) {
        if state.may_log {
            state.effects.log(level, line.to_owned());
        } else {
            state.effects.note(level, line.to_owned());
        }
    }
    Ok(())
}
