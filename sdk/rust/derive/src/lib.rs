//! Derive macros of `pelton-sdk`: `Fields` for the struct that a plugin reads, `Columns` for the one that it sets.
//!
//! In: a struct with named fields. Out: an implementation of the trait of the same purpose in `pelton-sdk`. Mistakes are
//! reported where they stand, in the words of the attributes.

mod attributes;
mod columns;
mod fields;
mod shape;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Reads typed fields and parts of each record into a struct.
///
/// ```
/// use pelton_sdk::prelude::*;
///
/// #[derive(Fields)]
/// struct Event<'a> {
///     order_id: &'a str,                        // the field of that name; rejected where it is missing
///     #[field(path = "customer.country", symbol)]
///     country: &'a str,                         // nested; few distinct values
///     coupon: Option<&'a str>,                  // may be missing
///     #[field(json)]
///     items: Vec<Item>,                         // any type that implements `Deserialize`
///     #[field(header = "trace-id")]
///     trace: Option<&'a str>,                   // a part of the record
/// }
///
/// #[derive(serde::Deserialize)]
/// struct Item { sku: String }
/// ```
///
/// | Attribute | Means |
/// |---|---|
/// | `path = "a.b"` | the field `b` inside the object `a`; `path = ["a.b"]` where a name has a dot in it |
/// | `name = "a"` | a top-level field of another name than the struct's |
/// | `symbol` | text with few distinct values, which then crosses once a batch |
/// | `json` | any JSON value: `&str` and `String` get its raw text, other types are parsed by serde |
/// | `on_mismatch = "null"` | a value of another type, or out of range, reads as `None` (only for `Option`) |
/// | `key`, `value`, `header = "name"` | raw bytes of the record, as `&[u8]`, `Vec<u8>`, `&str`, `String` |
/// | `headers` | all headers: `Headers` |
/// | `offset`, `timestamp`, `topic`, `partition` | where and when: `i64`, `i64` (ms), `&str`, `u32` |
#[proc_macro_derive(Fields, attributes(field))]
pub fn derive_fields(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    fields::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Writes a struct into the columns of the output.
///
/// ```
/// use pelton_sdk::prelude::*;
///
/// #[derive(Columns)]
/// struct OrderRow<'a> {
///     order_id: &'a str,
///     #[column(symbol)]
///     status: &'a str,
///     total_eur: Option<f64>,          // None leaves the field, or the table's cell, as it is
///     note: Set<&'a str>,              // Set::Leave, Set::Value(..), Set::Null, Set::Remove
///     #[column(path = "meta.tags", json)]
///     tags: Vec<String>,               // any type that implements `Serialize`
/// }
/// ```
///
/// | Attribute | Means |
/// |---|---|
/// | `path = "a.b"`, `name = "a"` | where the field goes, as for `Fields` |
/// | `symbol` | text with few distinct values, which then crosses once a batch |
/// | `json` | any JSON value: `&str` and `String` are ready JSON text, other types are written by serde |
#[proc_macro_derive(Columns, attributes(column))]
pub fn derive_columns(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    columns::expand(&input).unwrap_or_else(syn::Error::into_compile_error).into()
}

#[cfg(test)]
mod tests {
    use syn::DeriveInput;

    fn error_of(expand: impl Fn(&DeriveInput) -> syn::Result<proc_macro2::TokenStream>, code: &str) -> String {
        let input: DeriveInput = syn::parse_str(code).expect("the test's struct is Rust");
        let errors = expand(&input).expect_err("the struct is wrong");
        errors.into_iter().map(|error| error.to_string()).collect::<Vec<_>>().join(" | ")
    }

    #[test]
    fn mistakes_in_fields_are_explained() {
        let of = |code| error_of(crate::fields::expand, code);
        assert!(of("enum E { A }").contains("structs only"));
        assert!(of("struct S(i64);").contains("needs field names"));
        assert!(of("struct S<'a, 'b> { a: &'a str, b: &'b str }").contains("takes one lifetime"));
        assert!(of("struct S<T> { a: T }").contains("no type parameters"));
        assert!(of("struct S { #[field(on_mismatch = \"null\")] a: i64 }").contains("write `a: Option<…>`"));
        assert!(of("struct S { #[field(on_mismatch = \"drop\")] a: Option<i64> }").contains("\"null\" or \"reject\""));
        assert!(of("struct S { #[field(sybmol)] a: String }").contains("known are: path, name, symbol"));
        assert!(of("struct S { #[field(path = \"a..b\")] a: i64 }").contains("no empty names"));
        assert!(of("struct S { #[field(path = 7)] a: i64 }").contains("a path is a text with dots"));
        assert!(of("struct S { #[field(symbol, json)] a: String }").contains("not both"));
        assert!(of("struct S { #[field(key, path = \"a\")] a: String }").contains("takes no path"));
        assert!(of("struct S { #[column(symbol)] a: String }").contains("reads #[field(…)]"));
        let twice = "struct S { #[field(header = \"h\")] a: String, #[field(header = \"h\")] b: String }";
        assert!(of(twice).contains("header `h` is read twice"));
    }

    #[test]
    fn a_field_is_set_once() {
        let of = |code| error_of(crate::columns::expand, code);
        assert!(of("struct S { a: i64, #[column(name = \"a\")] b: i64 }").contains("lie within each other"));
        assert!(of("struct S { a: i64, #[column(path = \"a.b\")] b: i64 }").contains("`a` and `a.b`"));
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let errors = error_of(
            crate::columns::expand,
            "struct S { #[column(header = \"h\")] a: i64, #[field(symbol)] b: String, #[column(name = \"\")] c: i64 }",
        );
        assert!(errors.contains("known are: path, name, symbol, json"), "{errors}");
        assert!(errors.contains("reads #[column(…)]"), "{errors}");
        assert!(errors.contains("a name is not empty"), "{errors}");
    }
}
