//! The interface in `wit/`, as types and calls. Generated when the crate is built, so the two cannot drift apart.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "transform",
    ownership: Borrowing { duplicate_if_necessary: false },
    imports: { default: trappable },
});

pub use pelton::plugin::{clock, config, log, metrics, random, types};
pub use waiting::pelton::plugin::http;

/// The world with `http`, for a guest that may wait: its exports are called so that it can leave its thread.
pub mod waiting {
    wasmtime::component::bindgen!({
        path: "../wit",
        world: "transform-with-http",
        ownership: Borrowing { duplicate_if_necessary: false },
        imports: { "pelton:plugin/http": async | trappable, default: trappable },
        exports: { default: async },
        with: {
            "pelton:plugin/types": super::types,
            "pelton:plugin/log": super::log,
            "pelton:plugin/metrics": super::metrics,
            "pelton:plugin/config": super::config,
            "pelton:plugin/clock": super::clock,
            "pelton:plugin/random": super::random,
        },
    });
}
