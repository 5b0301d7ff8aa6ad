//! Capability `log`: lines for the operator.
//!
//! ```
//! use pelton_sdk::prelude::*;
//!
//! fn check(total: f64) {
//!     if total > 1e6 {
//!         log::warn!("unusually large: {total}");
//!     }
//! }
//! ```
//! Lines of a failed attempt are kept and travel with the dead letter. Long lines are cut, floods are counted.
//!
//! A panic ends in a trap. Once this module is used, the panic's text is logged before; [`report_panics`] in
//! [`Transform::new`](crate::Transform::new) makes sure of it from the first record on. A plugin that never names this
//! module does not import `log`, and its panics show as traps with a backtrace alone.

#[doc(inline)]
pub use crate::{__log_debug as debug, __log_error as error, __log_info as info, __log_warn as warn};

/// How loud a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For the author.
    Debug,
    /// Worth knowing.
    Info,
    /// Somebody should look.
    Warn,
    /// Something failed.
    Error,
}

/// Writes a line.
pub fn write(level: Level, message: &str) {
    report_panics();
    crate::host::log(level, message);
}

/// From now on the text and place of a panic are logged before the trap.
pub fn report_panics() {
    #[cfg(target_arch = "wasm32")]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            std::panic::set_hook(Box::new(|panic| crate::host::log(Level::Error, &panic.to_string())));
        });
    }
}

/// Writes a line of level debug; arguments as for `format!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_debug {
    ($($argument:tt)*) => { $crate::log::write($crate::log::Level::Debug, &::std::format!($($argument)*)) };
}

/// Writes a line of level info; arguments as for `format!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_info {
    ($($argument:tt)*) => { $crate::log::write($crate::log::Level::Info, &::std::format!($($argument)*)) };
}

/// Writes a line of level warn; arguments as for `format!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_warn {
    ($($argument:tt)*) => { $crate::log::write($crate::log::Level::Warn, &::std::format!($($argument)*)) };
}

/// Writes a line of level error; arguments as for `format!`.
#[doc(hidden)]
#[macro_export]
macro_rules! __log_error {
    ($($argument:tt)*) => { $crate::log::write($crate::log::Level::Error, &::std::format!($($argument)*)) };
}
