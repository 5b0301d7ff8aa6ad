//! Write Pelton plugins in Rust.
//!
//! A plugin is a struct that implements [`Transform`]: one function from what it reads of a record to a [`Step`].
//!
//! ```
//! use pelton_sdk::prelude::*;
//!
//! #[derive(Fields)] // what I read
//! struct Event<'a> {
//!     order_id: &'a str,
//!     #[field(path = "customer.country", symbol)]
//!     country: &'a str,
//!     amount_cents: i64,
//!     coupon: Option<&'a str>, // may be missing; all else is rejected before I see it
//! }
//!
//! #[derive(Columns)] // what I set
//! struct OrderRow<'a> {
//!     order_id: &'a str,
//!     country: &'a str,
//!     total_eur: f64,
//! }
//!
//! #[derive(Deserialize)]
//! #[serde(crate = "pelton_sdk::serde")]
//! struct Config {
//!     vat_percent: f64,
//!     alert_above_eur: f64,
//! }
//!
//! struct ShopOrders {
//!     config: Config,
//! }
//!
//! impl Transform for ShopOrders {
//!     type Config = Config;
//!     type Input<'a> = Event<'a>;
//!     type Output<'a> = OrderRow<'a>;
//!     const OUTPUTS: &'static [&'static str] = &["alerts"];
//!
//!     fn new(config: Config) -> Result<Self, ConfigError> {
//!         Ok(Self { config })
//!     }
//!
//!     fn apply<'a>(&self, event: Event<'a>) -> Step<OrderRow<'a>> {
//!         if event.amount_cents < 0 {
//!             return Step::reject("negative_amount", "amount_cents must not be negative");
//!         }
//!         let total_eur = event.amount_cents as f64 / 100.0 * (1.0 + self.config.vat_percent / 100.0);
//!         let row = OrderRow { order_id: event.order_id, country: event.country, total_eur };
//!         if total_eur > self.config.alert_above_eur { Step::set(row).also_to("alerts") } else { Step::set(row) }
//!     }
//! }
//! export!(ShopOrders);
//!
//! let plugin = testing::Driver::<ShopOrders>::new(json!({"vat_percent": 20, "alert_above_eur": 100})).unwrap();
//! let run = plugin.run([r#"{"order_id": "A-1", "customer": {"country": "DE"}, "amount_cents": 10000}"#]);
//! assert_eq!(run.values("alerts")[0]["total_eur"], 120.0);
//! ```
//!
//! # The crate of a plugin
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib", "rlib"]
//!
//! [dependencies]
//! pelton-sdk = { path = "../../sdk/rust" }
//! serde = { version = "1", features = ["derive"] }
//! ```
//!
//! # What a plugin may use
//!
//! [`log`], [`metrics`], [`clock`], [`random`], [`config`] and [`http`] are capabilities: a plugin that calls a function of one
//! imports it, and runs only where it is granted. What is not called is not imported.
//!
//! There are no files, no sockets but for what [`http`] is granted, no environment, no wall clock.
//!
//! # Where things are
//!
//! [`input`] reads columns, [`columns`] writes them, [`transform`] carries a batch through, `host` is the one seam to the
//! imports, and [`testing`] takes the host's place in `cargo test`. `bindings` is generated from `wit/`.

// The derive macros name this crate by its name, here as well.
extern crate self as pelton_sdk;

#[doc(hidden)]
#[allow(
    missing_docs,
    unreachable_pub,
    unsafe_code,
    clippy::all,
    clippy::pedantic,
    clippy::panic,
    clippy::unwrap_used,
    clippy::undocumented_unsafe_blocks,
    reason = "generated"
)]
#[rustfmt::skip]
pub mod bindings;
pub mod clock;
pub mod columns;
pub mod config;
mod host;
pub mod http;
pub mod input;
pub mod log;
pub mod metrics;
pub mod random;
mod step;
#[cfg(not(target_arch = "wasm32"))]
#[allow(clippy::panic, reason = "the test driver speaks to the author by panics, as assertions do")]
pub mod testing;
pub mod transform;

pub use columns::{Columns, Set};
pub use input::{Headers, Input, Record};
pub use pelton_sdk_derive::{Columns, Fields};
pub use step::{Failure, NewRecord, Step};
pub use transform::{ConfigError, Transform};

#[doc(hidden)]
pub use {serde, serde_json};

/// The code under which a value is rejected that a plugin parses as JSON and that is none.
pub const MALFORMED_JSON: &str = "malformed_json";
/// The code under which a record is rejected that lacks a part (key, value, header) which the plugin requires. Fields that
/// are missing never reach the plugin: the host rejects them as `decode.missing_field`.
pub const MISSING_FIELD: &str = "missing_field";
/// The code under which a field or part is rejected that does not fit its Rust type, such as 300 for a `u8`. Fields of
/// another JSON type never reach the plugin: the host rejects them as `decode.wrong_type`.
pub const WRONG_TYPE: &str = "wrong_type";

/// All that a plugin usually needs: `use pelton_sdk::prelude::*;`.
pub mod prelude {
    #[cfg(not(target_arch = "wasm32"))]
    pub use crate::testing;
    pub use crate::transform::Inputs;
    pub use crate::{Columns, Fields, Set};
    pub use crate::{ConfigError, Failure, Headers, NewRecord, Record, Step, Transform};
    pub use crate::{clock, config, export, http, log, metrics, random};
    pub use serde::{Deserialize, Serialize};
    pub use serde_json::json;
}

/// The examples of the cookbook compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Cookbook;
