//! The interface in `wit/`, as types and calls. Generated when the crate is built, so the two cannot drift apart.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "transform",
    ownership: Borrowing { duplicate_if_necessary: false },
    imports: { default: trappable },
});

pub use pelton::plugin::{clock, config, log, metrics, random, types};
