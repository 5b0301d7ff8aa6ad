//! Tests that need no services.

mod conformance;
