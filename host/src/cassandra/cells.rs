//! One value on its way into a cell: from what a plugin or a record says to the bytes that CQL wants.
//!
//! In: a [`Value`] and the column's own type. Out: the content of a CQL value (without its length), or what was found
//! and what is wanted. Scalars are written straight into the buffer. What is accepted follows Cassandra's rules for
//! `INSERT JSON` (numbers may come as strings, blobs as `0x…`, times as ISO text), with three differences: a timestamp
//! without a zone is refused (Cassandra would take the coordinator's zone), a number that is finite must stay so, and
//! raw bytes fit blobs, UUIDs and addresses. Pure; never builds a document for a scalar.

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;

use bigdecimal::BigDecimal;
use num_bigint::BigInt;
use scylla::cluster::metadata::{CollectionType, ColumnType, NativeType};

use super::collections;
use super::times::{self, Timestamp};
use crate::record::Value;

/// A value that does not fit its column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadValue {
    /// What is wanted.
    pub(crate) wanted: Cow<'static, str>,
    /// What was found: its kind, and a short excerpt.
    pub(crate) found: String,
}

/// Whether a value or a null was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoded {
    /// The content was appended.
    Value,
    /// It was JSON's `null`: nothing was appended.
    Null,
}

/// A value, looked at.
pub(crate) enum Look<'a> {
    Null,
    Boolean(bool),
    S64(i64),
    F64(f64),
    /// A JSON number that is no `i64`, as it stands there.
    Number(&'a str),
    Text(Cow<'a, str>),
    Bytes(&'a [u8]),
    /// The JSON text of an array.
    Array(&'a str),
    /// The JSON text of an object.
    Object(&'a str),
}

impl<'a> Look<'a> {
    pub(crate) fn at(value: Value<'a>) -> Result<Self, BadValue> {
        Ok(match value {
            Value::Boolean(value) => Self::Boolean(value),
            Value::S64(value) => Self::S64(value),
            Value::F64(value) => Self::F64(value),
            Value::Text(text) => Self::Text(Cow::Borrowed(text)),
            Value::Bytes(bytes) => Self::Bytes(bytes),
            Value::Json(text) => return Self::at_json(text.trim()),
        })
    }

    fn at_json(text: &'a str) -> Result<Self, BadValue> {
        let bad = || BadValue { wanted: "JSON".into(), found: excerpt("text that is no JSON", text) };
        match text.as_bytes().first() {
            Some(b'[') => Ok(Self::Array(text)),
            Some(b'{') => Ok(Self::Object(text)),
            Some(b'"') => serde_json::from_str(text).map(|text| Self::Text(Cow::Owned(text))).map_err(|_| bad()),
            Some(b'-' | b'0'..=b'9') => Ok(text.parse().map_or(Self::Number(text), Self::S64)),
            _ => match text {
                "null" => Ok(Self::Null),
                "true" => Ok(Self::Boolean(true)),
                "false" => Ok(Self::Boolean(false)),
                _ => Err(bad()),
            },
        }
    }

    fn found(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Boolean(value) => format!("the boolean {value}"),
            Self::S64(value) => format!("the number {value}"),
            Self::F64(value) => format!("the number {value:?}"),
            Self::Number(text) => excerpt("the number", text),
            Self::Text(text) => excerpt("the text", text),
            Self::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Self::Array(text) => excerpt("the array", text),
            Self::Object(text) => excerpt("the object", text),
        }
    }

    pub(crate) fn unfit(&self, wanted: impl Into<Cow<'static, str>>) -> BadValue {
        BadValue { wanted: wanted.into(), found: self.found() }
    }
}

/// The start of a text, cut where a character ends.
pub(crate) fn excerpt(what: &str, text: &str) -> String {
    const CHARACTERS: usize = 40;
    match text.char_indices().nth(CHARACTERS) {
        None => format!("{what} {text:?}"),
        Some((end, _)) => format!("{what} {:?}… ({} bytes)", &text[..end], text.len()),
    }
}

/// Appends the content of a value for a column of type `to`. After an error the buffer is as it was.
///
/// # Errors
/// Where the value does not fit the type.
pub(crate) fn encode(value: Value<'_>, to: &ColumnType<'_>, out: &mut Vec<u8>) -> Result<Encoded, BadValue> {
    let start = out.len();
    let look = Look::at(value)?;
    if matches!(look, Look::Null) {
        return Ok(Encoded::Null);
    }
    let done = match to {
        ColumnType::Native(native) => scalar(&look, native, out),
        _ => collections::encode(&look, to, out),
    };
    if done.is_err() {
        out.truncate(start);
    }
    done.map(|()| Encoded::Value)
}

fn scalar(look: &Look<'_>, to: &NativeType, out: &mut Vec<u8>) -> Result<(), BadValue> {
    match to {
        NativeType::Ascii => {
            let text = text(look)?;
            if !text.is_ascii() {
                return Err(look.unfit("text of ASCII characters only"));
            }
            out.extend_from_slice(text.as_bytes());
        }
        NativeType::Text => out.extend_from_slice(text(look)?.as_bytes()),
        NativeType::BigInt => out.extend_from_slice(&whole(look, i64::MIN, i64::MAX)?.to_be_bytes()),
        // The range was checked, so that nothing is cut off below.
        NativeType::Int => {
            out.extend_from_slice(&(whole(look, i64::from(i32::MIN), i64::from(i32::MAX))? as i32).to_be_bytes());
        }
        NativeType::SmallInt => {
            out.extend_from_slice(&(whole(look, i64::from(i16::MIN), i64::from(i16::MAX))? as i16).to_be_bytes());
        }
        NativeType::TinyInt => {
            out.extend_from_slice(&(whole(look, i64::from(i8::MIN), i64::from(i8::MAX))? as i8).to_be_bytes());
        }
        NativeType::Varint => varint(look, out)?,
        NativeType::Decimal => decimal(look, out)?,
        NativeType::Float => out.extend_from_slice(&float(look)?.to_be_bytes()),
        NativeType::Double => out.extend_from_slice(&double(look)?.to_be_bytes()),
        NativeType::Boolean => out.push(u8::from(boolean(look)?)),
        NativeType::Blob => blob(look, out)?,
        NativeType::Uuid => out.extend_from_slice(uuid(look)?.as_bytes()),
        NativeType::Timeuuid => {
            let uuid = uuid(look)?;
            if uuid.get_version_num() != 1 {
                return Err(look.unfit("a time UUID (version 1)"));
            }
            out.extend_from_slice(uuid.as_bytes());
        }
        NativeType::Inet => inet(look, out)?,
        NativeType::Date => {
            let days = as_text(look).and_then(times::date).ok_or_else(|| look.unfit("a date as yyyy-mm-dd"))?;
            // Cassandra counts days from -2^31.
            let days = u32::try_from(days + (1 << 31)).map_err(|_| look.unfit("a date that Cassandra can hold"))?;
            out.extend_from_slice(&days.to_be_bytes());
        }
        NativeType::Time => {
            let wanted = "a time of day as hh:mm:ss[.fffffffff]";
            let time_ns = as_text(look).and_then(times::time).ok_or_else(|| look.unfit(wanted))?;
            out.extend_from_slice(&time_ns.to_be_bytes());
        }
        NativeType::Timestamp => out.extend_from_slice(&timestamp(look)?.to_be_bytes()),
        NativeType::Duration => {
            let wanted = "a duration as 1y2mo3d4h5m6s or P1Y2M3DT4H5M6S";
            let duration = as_text(look).and_then(times::duration).ok_or_else(|| look.unfit(wanted))?;
            for part in [i64::from(duration.months), i64::from(duration.days), duration.nanoseconds] {
                signed_vint(part, out);
            }
        }
        // Counters never get here: their tables are refused.
        _ => return Err(look.unfit("a column of another type")),
    }
    Ok(())
}

fn as_text<'a>(look: &'a Look<'_>) -> Option<&'a str> {
    match look {
        Look::Text(text) => Some(text),
        _ => None,
    }
}

fn text<'a>(look: &'a Look<'_>) -> Result<&'a str, BadValue> {
    as_text(look).ok_or_else(|| look.unfit("text"))
}

fn whole(look: &Look<'_>, min: i64, max: i64) -> Result<i64, BadValue> {
    let value = match look {
        Look::S64(value) => Some(*value),
        Look::Text(text) => text.parse().ok(),
        _ => None,
    };
    value
        .filter(|value| (min..=max).contains(value))
        .ok_or_else(|| look.unfit(format!("a whole number from {min} to {max}")))
}

fn varint(look: &Look<'_>, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let value = match look {
        Look::S64(value) => Some(BigInt::from(*value)),
        Look::Number(text) => BigInt::from_str(text).ok(),
        Look::Text(text) => BigInt::from_str(text).ok(),
        _ => None,
    };
    out.extend_from_slice(&value.ok_or_else(|| look.unfit("a whole number"))?.to_signed_bytes_be());
    Ok(())
}

fn decimal(look: &Look<'_>, out: &mut Vec<u8>) -> Result<(), BadValue> {
    let value = match look {
        Look::S64(value) => Some(BigDecimal::from(*value)),
        // The shortest text that reads back as the same number.
        Look::F64(value) if value.is_finite() => BigDecimal::from_str(&format!("{value:?}")).ok(),
        Look::Number(text) => BigDecimal::from_str(text).ok(),
        Look::Text(text) => BigDecimal::from_str(text).ok(),
        _ => None,
    };
    let (unscaled, scale) = value.ok_or_else(|| look.unfit("a decimal number"))?.into_bigint_and_exponent();
    let scale = i32::try_from(scale).map_err(|_| look.unfit("a decimal number with a scale of 32 bits"))?;
    out.extend_from_slice(&scale.to_be_bytes());
    out.extend_from_slice(&unscaled.to_signed_bytes_be());
    Ok(())
}

fn double(look: &Look<'_>) -> Result<f64, BadValue> {
    let value = match look {
        Look::S64(value) => Some(*value as f64),
        Look::F64(value) => Some(*value),
        Look::Number(text) => text.parse().ok().filter(|value: &f64| value.is_finite()),
        Look::Text(text) => text.parse().ok().filter(|value: &f64| value.is_finite() || names_no_number(text)),
        _ => None,
    };
    value.ok_or_else(|| look.unfit("a number that a double can hold"))
}

fn float(look: &Look<'_>) -> Result<f32, BadValue> {
    let value = match look {
        Look::S64(value) => Some(*value as f32),
        Look::F64(value) if value.is_finite() => Some(*value as f32).filter(|value| value.is_finite()),
        Look::F64(value) => Some(*value as f32),
        Look::Number(text) => text.parse().ok().filter(|value: &f32| value.is_finite()),
        Look::Text(text) => text.parse().ok().filter(|value: &f32| value.is_finite() || names_no_number(text)),
        _ => None,
    };
    value.ok_or_else(|| look.unfit("a number that a float can hold"))
}

/// `NaN`, `Infinity`: said, and not the result of an overflow.
fn names_no_number(text: &str) -> bool {
    !text.bytes().any(|byte| byte.is_ascii_digit())
}

fn boolean(look: &Look<'_>) -> Result<bool, BadValue> {
    match look {
        Look::Boolean(value) => Ok(*value),
        Look::Text(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Look::Text(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(look.unfit("true or false")),
    }
}

fn blob(look: &Look<'_>, out: &mut Vec<u8>) -> Result<(), BadValue> {
    match look {
        Look::Bytes(bytes) => out.extend_from_slice(bytes),
        _ => {
            let wanted = "bytes, or text of 0x and an even number of hexadecimal digits";
            let digits = as_text(look).and_then(|text| text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")));
            out.extend(digits.and_then(|digits| hex::decode(digits).ok()).ok_or_else(|| look.unfit(wanted))?);
        }
    }
    Ok(())
}

fn uuid(look: &Look<'_>) -> Result<uuid::Uuid, BadValue> {
    let uuid = match look {
        Look::Text(text) if text.len() == uuid::fmt::Hyphenated::LENGTH => uuid::Uuid::try_parse(text).ok(),
        Look::Bytes(bytes) => uuid::Uuid::from_slice(bytes).ok(),
        _ => None,
    };
    uuid.ok_or_else(|| look.unfit("a UUID as 8-4-4-4-12 hexadecimal digits"))
}

fn inet(look: &Look<'_>, out: &mut Vec<u8>) -> Result<(), BadValue> {
    match look {
        Look::Bytes(bytes) if matches!(bytes.len(), 4 | 16) => out.extend_from_slice(bytes),
        _ => match as_text(look).and_then(|text| text.parse().ok()) {
            Some(IpAddr::V4(address)) => out.extend_from_slice(&address.octets()),
            Some(IpAddr::V6(address)) => out.extend_from_slice(&address.octets()),
            None => return Err(look.unfit("an IPv4 or IPv6 address")),
        },
    }
    Ok(())
}

fn timestamp(look: &Look<'_>) -> Result<i64, BadValue> {
    match look {
        Look::S64(milliseconds) => Ok(*milliseconds),
        Look::Text(text) => match times::timestamp(text) {
            Timestamp::At(milliseconds) => Ok(milliseconds),
            Timestamp::NoZone => Err(look.unfit("a time with its zone, as in 2026-01-31T12:00:00Z")),
            Timestamp::Malformed => Err(look.unfit("milliseconds since 1970, or a time as in 2026-01-31T12:00:00Z")),
        },
        _ => Err(look.unfit("milliseconds since 1970, or a time as in 2026-01-31T12:00:00Z")),
    }
}

/// Cassandra's variable-length integer: the leading ones of the first byte count the bytes that follow.
pub(crate) fn unsigned_vint(value: u64, out: &mut Vec<u8>) {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    // Each byte in all gives seven bits, up to nine bytes, the first of which is then all ones.
    let extra = ((bits - 1) / 7).min(8);
    if extra == 8 {
        out.push(0xff);
        out.extend_from_slice(&value.to_be_bytes());
        return;
    }
    let marker = !(0xff_u64 >> extra) & 0xff;
    let marked = value | marker << (8 * extra);
    out.extend_from_slice(&marked.to_be_bytes()[7 - extra..]);
}

fn signed_vint(value: i64, out: &mut Vec<u8>) {
    unsigned_vint(((value << 1) ^ (value >> 63)).cast_unsigned(), out);
}

/// A type as CQL writes it.
pub(crate) fn type_name(of: &ColumnType<'_>) -> String {
    match of {
        ColumnType::Native(native) => format!("{native:?}").to_ascii_lowercase(),
        ColumnType::Collection { typ: CollectionType::List(of), .. } => format!("list<{}>", type_name(of)),
        ColumnType::Collection { typ: CollectionType::Set(of), .. } => format!("set<{}>", type_name(of)),
        ColumnType::Collection { typ: CollectionType::Map(key, value), .. } => {
            format!("map<{}, {}>", type_name(key), type_name(value))
        }
        ColumnType::Vector { typ, dimensions } => format!("vector<{}, {dimensions}>", type_name(typ)),
        ColumnType::Tuple(types) => format!("tuple<{}>", types.iter().map(type_name).collect::<Vec<_>>().join(", ")),
        ColumnType::UserDefinedType { definition, .. } => definition.name.to_string(),
        other => format!("{other:?}"),
    }
}
