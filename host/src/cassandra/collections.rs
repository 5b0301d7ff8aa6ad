//! Sets, maps, lists, tuples, user-defined types and vectors, from their JSON.
//!
//! In: an array or an object (or a string that holds one, as Cassandra's JSON rules allow), and the type. Out: the
//! content of a CQL value. Each level is split into its parts without a document in between; parts go through
//! [`cells::encode`] by their own type. Pure.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use scylla::cluster::metadata::{CollectionType, ColumnType, NativeType};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::cells::{self, BadValue, Encoded, Look, type_name, unsigned_vint};
use crate::record::Value;

/// Appends the content of a collection.
pub(crate) fn encode(look: &Look<'_>, to: &ColumnType<'_>, out: &mut Vec<u8>) -> Result<(), BadValue> {
    // A string may hold the JSON text: the keys of a map of maps cannot come otherwise.
    let inner = match look {
        Look::Text(text) => {
            Look::at(Value::Json(text)).ok().filter(|inner| matches!(inner, Look::Array(_) | Look::Object(_)))
        }
        _ => None,
    };
    let look = inner.as_ref().unwrap_or(look);
    match to {
        ColumnType::Collection { typ: CollectionType::List(of), .. } => list(look, of, to, out),
        ColumnType::Collection { typ: CollectionType::Set(of), .. } => set(look, of, to, out),
        ColumnType::Collection { typ: CollectionType::Map(key, value), .. } => map(look, key, value, to, out),
        ColumnType::Tuple(types) => tuple(look, types, to, out),
        ColumnType::UserDefinedType { definition, .. } => user_defined(look, &definition.field_types, to, out),
        ColumnType::Vector { typ, dimensions } => vector(look, typ, *dimensions, to, out),
        _ => Err(look.unfit("a column of another type")),
    }
}

fn list(look: &Look<'_>, of: &ColumnType<'_>, to: &ColumnType<'_>, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let parts = array(look, to)?;
    count(parts.len(), look, out)?;
    for (index, part) in parts.iter().enumerate() {
        sized(part.get(), of, Nulls::Refused, out).map_err(|bad| inside(&format!("element {index}"), bad))?;
    }
    Ok(())
}

fn set(look: &Look<'_>, of: &ColumnType<'_>, to: &ColumnType<'_>, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let parts = array(look, to)?;
    let counted = out.len();
    count(0, look, out)?;
    let mut seen = HashSet::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        let start = out.len();
        sized(part.get(), of, Nulls::Refused, out).map_err(|bad| inside(&format!("element {index}"), bad))?;
        if !seen.insert(out[start..].to_vec()) {
            out.truncate(start);
        }
    }
    recount(counted, seen.len(), look, out)
}

fn map(
    look: &Look<'_>,
    key_type: &ColumnType<'_>,
    value_type: &ColumnType<'_>,
    to: &ColumnType<'_>,
    out: &mut Vec<u8>,
) -> Result<(), BadValue> {
    let entries = object(look, to)?;
    let counted = out.len();
    count(0, look, out)?;
    // Keys that differ as text can be one key to the table ("1" and "01"): the last one stands.
    let mut keys = Vec::with_capacity(entries.len());
    for (name, _) in &entries {
        let mut key = Vec::new();
        match cells::encode(Value::Text(name), key_type, &mut key) {
            Ok(_) => keys.push(key),
            Err(bad) => return Err(inside("a key", bad)),
        }
    }
    let mut seen = HashSet::with_capacity(entries.len());
    let last: Vec<bool> = keys.iter().rev().map(|key| seen.insert(key.as_slice())).collect();
    for ((key, (name, value)), _) in keys.iter().zip(&entries).zip(last.iter().rev()).filter(|(_, last)| **last) {
        count(key.len(), look, out)?;
        out.extend_from_slice(key);
        sized(value.get(), value_type, Nulls::Refused, out)
            .map_err(|bad| inside(&cells::excerpt("the value of", name), bad))?;
    }
    recount(counted, seen.len(), look, out)
}

fn tuple(look: &Look<'_>, types: &[ColumnType<'_>], to: &ColumnType<'_>, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let parts = array(look, to)?;
    if parts.len() != types.len() {
        return Err(look.unfit(format!("an array of {} elements, for {}", types.len(), type_name(to))));
    }
    for (index, (part, of)) in parts.iter().zip(types).enumerate() {
        sized(part.get(), of, Nulls::Written, out).map_err(|bad| inside(&format!("element {index}"), bad))?;
    }
    Ok(())
}

fn user_defined(
    look: &Look<'_>,
    fields: &[(Cow<'_, str>, ColumnType<'_>)],
    to: &ColumnType<'_>,
    out: &mut Vec<u8>,
) -> Result<(), BadValue> {
    let entries = object(look, to)?;
    let is = |name: &str, field: &str| name == field || name.eq_ignore_ascii_case(field);
    for (name, _) in &entries {
        if !fields.iter().any(|(field, _)| is(name, field)) {
            let names: Vec<_> = fields.iter().map(|(field, _)| field.as_ref()).collect();
            return Err(BadValue {
                wanted: format!("the fields of {}: {}", type_name(to), names.join(", ")).into(),
                found: cells::excerpt("the field", name),
            });
        }
    }
    for (field, of) in fields {
        let exact = entries.iter().rev().find(|(name, _)| name == field);
        match exact.or_else(|| entries.iter().rev().find(|(name, _)| is(name, field))) {
            None => out.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some((_, value)) => {
                sized(value.get(), of, Nulls::Written, out).map_err(|bad| inside(&format!("field {field}"), bad))?
            }
        }
    }
    Ok(())
}

fn vector(
    look: &Look<'_>,
    of: &ColumnType<'_>,
    dimensions: u16,
    to: &ColumnType<'_>,
    out: &mut Vec<u8>,
) -> Result<(), BadValue> {
    let parts = array(look, to)?;
    if parts.len() != usize::from(dimensions) {
        return Err(look.unfit(format!("an array of {dimensions} elements, for {}", type_name(to))));
    }
    let fixed = matches!(of, ColumnType::Native(native) if native_is_fixed(native));
    for (index, part) in parts.iter().enumerate() {
        let mut element = Vec::new();
        match cells::encode(Value::Json(part.get()), of, &mut element) {
            Ok(Encoded::Value) => {}
            Ok(Encoded::Null) => return Err(no_null(of, &format!("element {index}"))),
            Err(bad) => return Err(inside(&format!("element {index}"), bad)),
        }
        if !fixed {
            unsigned_vint(element.len() as u64, out);
        }
        out.extend_from_slice(&element);
    }
    Ok(())
}

fn native_is_fixed(native: &NativeType) -> bool {
    native.type_size_for_vector().is_some()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nulls {
    Written,
    Refused,
}

/// Appends a value with its length before it.
fn sized(text: &str, of: &ColumnType<'_>, nulls: Nulls, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let start = out.len();
    out.extend_from_slice(&(-1_i32).to_be_bytes());
    match cells::encode(Value::Json(text), of, out)? {
        Encoded::Null if nulls == Nulls::Refused => Err(no_null(of, "an element")),
        Encoded::Null => Ok(()),
        Encoded::Value => {
            let length = i32::try_from(out.len() - start - 4).map_err(|_| BadValue {
                wanted: "less than 2 GiB".into(),
                found: format!("{} bytes", out.len() - start - 4),
            })?;
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
            Ok(())
        }
    }
}

fn no_null(of: &ColumnType<'_>, place: &str) -> BadValue {
    BadValue {
        wanted: format!("a {} (collections hold no nulls)", type_name(of)).into(),
        found: format!("null as {place}"),
    }
}

fn inside(place: &str, bad: BadValue) -> BadValue {
    BadValue { wanted: format!("{}, in {place}", bad.wanted).into(), found: bad.found }
}

fn count(elements: usize, look: &Look<'_>, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let elements = i32::try_from(elements).map_err(|_| look.unfit("fewer than 2^31 elements"))?;
    out.extend_from_slice(&elements.to_be_bytes());
    Ok(())
}

fn recount(at: usize, elements: usize, look: &Look<'_>, out: &mut [u8]) -> Result<(), BadValue> {
    let elements = i32::try_from(elements).map_err(|_| look.unfit("fewer than 2^31 elements"))?;
    out[at..at + 4].copy_from_slice(&elements.to_be_bytes());
    Ok(())
}

fn array<'a>(look: &Look<'a>, to: &ColumnType<'_>) -> Result<Vec<&'a RawValue>, BadValue> {
    let wanted = || look.unfit(format!("an array, for {}", type_name(to)));
    match look {
        Look::Array(text) => serde_json::from_str(text).map_err(|_| wanted()),
        _ => Err(wanted()),
    }
}

fn object<'a>(look: &Look<'a>, to: &ColumnType<'_>) -> Result<Vec<(String, &'a RawValue)>, BadValue> {
    let wanted = || look.unfit(format!("an object, for {}", type_name(to)));
    match look {
        Look::Object(text) => serde_json::from_str::<Entries<'_>>(text).map(|entries| entries.0).map_err(|_| wanted()),
        _ => Err(wanted()),
    }
}

/// The members of an object in order, repeated ones too.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = members.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        from.deserialize_map(Members)
    }
}
