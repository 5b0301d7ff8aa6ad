//! Every type, its limits and its refusals; the driver's own serialisation is the reference for the bytes.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use proptest::prelude::*;
use scylla::cluster::metadata::{CollectionType, ColumnType, NativeType, UserDefinedType};
use scylla::serialize::value::SerializeValue;
use scylla::serialize::writers::CellWriter;
use scylla::value::{CqlDate, CqlDecimal, CqlDuration, CqlTime, CqlTimestamp, CqlTimeuuid, CqlValue, CqlVarint};

use super::cells::{Encoded, encode};
use crate::record::Value;

fn native(of: NativeType) -> ColumnType<'static> {
    ColumnType::Native(of)
}

fn collection(typ: CollectionType<'static>) -> ColumnType<'static> {
    ColumnType::Collection { frozen: true, typ }
}

fn bytes(value: Value<'_>, to: &ColumnType<'_>) -> Result<Vec<u8>, String> {
    let mut out = b"before".to_vec();
    match encode(value, to, &mut out) {
        Ok(Encoded::Value) => Ok(out.split_off(6)),
        Ok(Encoded::Null) => Err("null".into()),
        Err(bad) => {
            assert_eq!(out, b"before", "an error leaves the buffer as it was");
            Err(format!("found {}, wanted {}", bad.found, bad.wanted))
        }
    }
}

fn reference(value: &CqlValue, to: &ColumnType<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    value.serialize(to, CellWriter::new(&mut out)).expect("the driver takes it");
    out.split_off(4)
}

fn same(value: Value<'_>, to: &ColumnType<'_>, expected: &CqlValue) {
    assert_eq!(bytes(value, to).as_deref(), Ok(reference(expected, to).as_slice()), "{value:?} as {to:?}");
}

fn refused(value: Value<'_>, to: &NativeType, message: &str) {
    let error = bytes(value, &native(to.clone())).expect_err("it must not fit");
    assert!(error.contains(message), "{value:?} as {to:?}: {error}");
}

use NativeType as N;
use Value::{Bytes, Json, S64, Text};

fn number(value: f64) -> Value<'static> {
    Value::F64(value)
}

#[test]
fn whole_numbers_and_their_limits() {
    for value in [S64(-5), Text("-5"), Json("-5"), Json("\"-5\"")] {
        same(value, &native(N::BigInt), &CqlValue::BigInt(-5));
        same(value, &native(N::Int), &CqlValue::Int(-5));
        same(value, &native(N::SmallInt), &CqlValue::SmallInt(-5));
        same(value, &native(N::TinyInt), &CqlValue::TinyInt(-5));
    }
    same(S64(i64::MAX), &native(N::BigInt), &CqlValue::BigInt(i64::MAX));
    same(S64(i64::from(i32::MIN)), &native(N::Int), &CqlValue::Int(i32::MIN));
    same(S64(127), &native(N::TinyInt), &CqlValue::TinyInt(127));
    refused(S64(128), &N::TinyInt, "found the number 128, wanted a whole number from -128 to 127");
    refused(S64(32_768), &N::SmallInt, "from -32768 to 32767");
    refused(S64(-2_147_483_649), &N::Int, "from -2147483648 to 2147483647");
    refused(Json("9223372036854775808"), &N::BigInt, "found the number \"9223372036854775808\"");
    refused(number(5.0), &N::Int, "found the number 5.0");
    refused(Text("5.0"), &N::Int, "found the text \"5.0\"");
    refused(Text(""), &N::Int, "found the text \"\"");
    refused(Value::Boolean(true), &N::Int, "found the boolean true");
}

#[test]
fn varints_have_no_limit() {
    for text in ["0", "127", "128", "-129", "170141183460469231731687303715884105728", "-99999999999999999999999"] {
        let expected = num_bigint::BigInt::from_str(text).expect("a number").to_signed_bytes_be();
        let expected = CqlValue::Varint(CqlVarint::from_signed_bytes_be(expected));
        same(Text(text), &native(N::Varint), &expected);
        same(Json(text), &native(N::Varint), &expected);
    }
    refused(number(f64::NAN), &N::Varint, "found the number NaN, wanted a whole number");
    refused(Json("1e3"), &N::Varint, "wanted a whole number");
}

#[test]
fn decimals_keep_their_scale() {
    let expected = |unscaled: i64, scale| {
        let unscaled = num_bigint::BigInt::from(unscaled).to_signed_bytes_be();
        CqlValue::Decimal(CqlDecimal::from_signed_be_bytes_and_exponent(unscaled, scale))
    };
    same(Text("1.50"), &native(N::Decimal), &expected(150, 2));
    same(Json("-0.001"), &native(N::Decimal), &expected(-1, 3));
    same(number(0.1), &native(N::Decimal), &expected(1, 1));
    same(S64(7), &native(N::Decimal), &expected(7, 0));
    same(number(1e300), &native(N::Decimal), &expected(1, -300));
    refused(number(f64::NAN), &N::Decimal, "found the number NaN, wanted a decimal number");
    refused(number(f64::INFINITY), &N::Decimal, "wanted a decimal number");
    refused(Text("1e99999999999"), &N::Decimal, "wanted a decimal number");
    refused(Text("a"), &N::Decimal, "wanted a decimal number");
}

#[test]
fn floats_stay_finite_unless_they_say_otherwise() {
    same(number(1.5), &native(N::Double), &CqlValue::Double(1.5));
    same(S64(3), &native(N::Double), &CqlValue::Double(3.0));
    same(Json("1e3"), &native(N::Double), &CqlValue::Double(1000.0));
    same(Text("-2.5"), &native(N::Float), &CqlValue::Float(-2.5));
    same(number(0.1), &native(N::Float), &CqlValue::Float(0.1));
    same(number(f64::INFINITY), &native(N::Float), &CqlValue::Float(f32::INFINITY));
    same(Text("-Infinity"), &native(N::Double), &CqlValue::Double(f64::NEG_INFINITY));
    let not_a_number = bytes(number(f64::NAN), &native(N::Double)).expect("a double holds NaN");
    assert!(f64::from_be_bytes(not_a_number.try_into().expect("8 bytes")).is_nan());
    refused(number(1e300), &N::Float, "wanted a number that a float can hold");
    refused(Text("1e300"), &N::Float, "wanted a number that a float can hold");
    refused(Json("1e400"), &N::Double, "wanted a number that a double can hold");
    refused(Text("1e400"), &N::Double, "wanted a number that a double can hold");
    refused(Text("one"), &N::Double, "found the text \"one\"");
}

#[test]
fn text_bytes_and_booleans() {
    same(Text("grüße 🦀"), &native(N::Text), &CqlValue::Text("grüße 🦀".into()));
    same(Json(r#""a\u00fcb""#), &native(N::Text), &CqlValue::Text("aüb".into()));
    same(Text(""), &native(N::Text), &CqlValue::Text(String::new()));
    same(Text("abc"), &native(N::Ascii), &CqlValue::Ascii("abc".into()));
    refused(Text("ü"), &N::Ascii, "wanted text of ASCII characters only");
    refused(S64(5), &N::Text, "found the number 5, wanted text");
    refused(Json(r#"{"a":1}"#), &N::Text, "found the object");
    same(Bytes(b"\x00\xff"), &native(N::Blob), &CqlValue::Blob(vec![0, 255]));
    same(Text("0x00Ff"), &native(N::Blob), &CqlValue::Blob(vec![0, 255]));
    same(Text("0x"), &native(N::Blob), &CqlValue::Blob(vec![]));
    refused(Text("0x0"), &N::Blob, "an even number of hexadecimal digits");
    refused(Text("00ff"), &N::Blob, "an even number of hexadecimal digits");
    same(Value::Boolean(true), &native(N::Boolean), &CqlValue::Boolean(true));
    same(Text("False"), &native(N::Boolean), &CqlValue::Boolean(false));
    same(Json("true"), &native(N::Boolean), &CqlValue::Boolean(true));
    refused(S64(1), &N::Boolean, "wanted true or false");
    refused(Text("yes"), &N::Boolean, "wanted true or false");
}

#[test]
fn identifiers_and_addresses() {
    let random = "6f1d5a0e-6f0c-4f5e-9d50-1f9f2b1c7a01";
    let time = "50554d6e-29bb-11e5-b345-feff819cdc9f";
    same(Text(random), &native(N::Uuid), &CqlValue::Uuid(uuid::Uuid::from_str(random).expect("a UUID")));
    same(Text(time), &native(N::Timeuuid), &CqlValue::Timeuuid(CqlTimeuuid::from_str(time).expect("a UUID")));
    let raw = uuid::Uuid::from_str(random).expect("a UUID");
    same(Bytes(raw.as_bytes()), &native(N::Uuid), &CqlValue::Uuid(raw));
    refused(Text(random), &N::Timeuuid, "wanted a time UUID (version 1)");
    refused(Text("6f1d5a0e6f0c4f5e9d501f9f2b1c7a01"), &N::Uuid, "8-4-4-4-12");
    refused(Bytes(b"short"), &N::Uuid, "found 5 bytes");
    for text in ["192.168.0.1", "2001:db8::7", "::ffff:1.2.3.4"] {
        let address = IpAddr::from_str(text).expect("an address");
        same(Text(text), &native(N::Inet), &CqlValue::Inet(address));
    }
    refused(Text("example.org"), &N::Inet, "wanted an IPv4 or IPv6 address");
    refused(Text("1.2.3.256"), &N::Inet, "wanted an IPv4 or IPv6 address");
}

#[test]
fn dates_before_and_after_1970() {
    let days = |days: i64| CqlValue::Date(CqlDate((days + (1 << 31)) as u32));
    for (text, since) in [
        ("1970-01-01", 0),
        ("1969-12-31", -1),
        ("2024-02-29", 19_782),
        ("0001-01-01", -719_162),
        ("-5877641-06-23", -(1_i64 << 31)),
        ("5881580-07-11", (1_i64 << 31) - 1),
    ] {
        same(Text(text), &native(N::Date), &days(since));
    }
    for text in ["2023-02-29", "1900-02-29", "2024-13-01", "2024-00-01", "2024-01-32", "24-01-01", "2024-1-1", "today"]
    {
        refused(Text(text), &N::Date, "wanted a date as yyyy-mm-dd");
    }
    refused(Text("5881580-07-12"), &N::Date, "a date that Cassandra can hold");
    refused(S64(0), &N::Date, "found the number 0");
}

#[test]
fn times_of_day() {
    same(Text("00:00:00"), &native(N::Time), &CqlValue::Time(CqlTime(0)));
    same(Text("23:59:59.999999999"), &native(N::Time), &CqlValue::Time(CqlTime(86_399_999_999_999)));
    same(Text("08:12:54.123"), &native(N::Time), &CqlValue::Time(CqlTime(29_574_123_000_000)));
    for text in ["24:00:00", "08:60:00", "08:12", "8:12:00", "08:12:54.", "08:12:54.1234567890"] {
        refused(Text(text), &N::Time, "wanted a time of day");
    }
}

#[test]
fn timestamps_as_milliseconds_or_with_a_zone() {
    let at = |ms| CqlValue::Timestamp(CqlTimestamp(ms));
    for (text, ms) in [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999Z", -1),
        ("1969-12-31T23:59:59.9999Z", -1),
        ("2011-02-03T04:05:06.789+0100", 1_296_702_306_789),
        ("2011-02-03 04:05+0000", 1_296_705_900_000),
        ("2011-02-03 04:05:06 UTC", 1_296_705_906_000),
        ("2011-02-03T04:05:06-05:30", 1_296_725_706_000),
        ("2011-02-03+0000", 1_296_691_200_000),
        ("2024-01-01T00:00:00.123456+00:00", 1_704_067_200_123),
        ("1704067200123", 1_704_067_200_123),
        ("-62135596800001", -62_135_596_800_001),
    ] {
        same(Text(text), &native(N::Timestamp), &at(ms));
    }
    same(S64(-1), &native(N::Timestamp), &at(-1));
    refused(Text("2011-02-03T04:05:06"), &N::Timestamp, "wanted a time with its zone");
    refused(Text("2011-02-03"), &N::Timestamp, "wanted a time with its zone");
    for text in ["2011-02-30T00:00:00Z", "2011-02-03T25:00:00Z", "2011-02-03T04:05:06+25:00", "yesterday", ""] {
        refused(Text(text), &N::Timestamp, "wanted milliseconds since 1970");
    }
    refused(number(1.5), &N::Timestamp, "found the number 1.5");
}

#[test]
fn durations_in_each_of_their_forms() {
    let expected = |months, days, nanoseconds| CqlValue::Duration(CqlDuration { months, days, nanoseconds });
    for (text, value) in [
        ("12h30m", expected(0, 0, 45_000_000_000_000)),
        ("1y2mo3w4d5h6m7s8ms9us10ns", expected(14, 25, 18_367_008_009_010)),
        ("-3d", expected(0, -3, 0)),
        ("5µs", expected(0, 0, 5_000)),
        ("P1Y2M3DT4H5M6S", expected(14, 3, 14_706_000_000_000)),
        ("-PT1S", expected(0, 0, -1_000_000_000)),
        ("P3W", expected(0, 21, 0)),
        ("P0001-02-03T04:05:06", expected(14, 3, 14_706_000_000_000)),
    ] {
        same(Text(text), &native(N::Duration), &value);
    }
    for text in ["", "P", "PT", "5", "d", "3d1y", "1m1mo", "99999999999mo", "10675199999d99999999999h", "1s1s"] {
        refused(Text(text), &N::Duration, "wanted a duration");
    }
}

#[test]
fn collections_come_from_json() {
    let set = collection(CollectionType::Set(Box::new(native(N::Int))));
    let list = collection(CollectionType::List(Box::new(native(N::Text))));
    let map = collection(CollectionType::Map(Box::new(native(N::Int)), Box::new(native(N::Text))));
    let ints = |of: &[i32]| CqlValue::Set(of.iter().map(|value| CqlValue::Int(*value)).collect());
    same(Json("[3, 1, \"2\"]"), &set, &ints(&[3, 1, 2]));
    same(Json("[1, 1, 1]"), &set, &ints(&[1]));
    same(Json("[]"), &set, &ints(&[]));
    same(Text("[7]"), &set, &ints(&[7]));
    let texts = CqlValue::List(vec![CqlValue::Text("a".into()), CqlValue::Text("é\"".into())]);
    same(Json(r#"["a", "\u00e9\""]"#), &list, &texts);
    let entries = |of: &[(i32, &str)]| {
        CqlValue::Map(of.iter().map(|(k, v)| (CqlValue::Int(*k), CqlValue::Text((*v).into()))).collect())
    };
    same(Json(r#"{"1": "a", "-2": "b"}"#), &map, &entries(&[(1, "a"), (-2, "b")]));
    same(Json(r#"{"1": "a", "2": "b", "01": "c"}"#), &map, &entries(&[(2, "b"), (1, "c")]));

    let error = |value, to: &ColumnType<'_>| bytes(value, to).expect_err("it must not fit");
    assert_eq!(
        error(Json("[1, 99999999999]"), &set),
        "found the number 99999999999, wanted a whole number from -2147483648 to 2147483647, in element 1"
    );
    assert!(error(Json("[1, null]"), &set).contains("collections hold no nulls"));
    assert!(error(Json(r#"{"1": null}"#), &map).contains("collections hold no nulls"));
    assert!(error(Json(r#"{"x": "a"}"#), &map).contains("in a key"));
    assert_eq!(error(Json("{}"), &list), "found the object \"{}\", wanted an array, for list<text>");
    assert!(error(S64(1), &list).contains("wanted an array, for list<text>"));
    assert!(error(Json("[1"), &set).contains("found the array \"[1\""));
}

#[test]
fn nested_types_tuples_and_user_defined_types() {
    let inner = collection(CollectionType::List(Box::new(native(N::Double))));
    let map = collection(CollectionType::Map(Box::new(native(N::Text)), Box::new(inner)));
    let doubles = CqlValue::List(vec![CqlValue::Double(1.0), CqlValue::Double(2.5)]);
    same(Json(r#"{"a": [1, 2.5]}"#), &map, &CqlValue::Map(vec![(CqlValue::Text("a".into()), doubles)]));

    let keyed = collection(CollectionType::Map(
        Box::new(collection(CollectionType::List(Box::new(native(N::Int))))),
        Box::new(native(N::Int)),
    ));
    let key = CqlValue::List(vec![CqlValue::Int(1), CqlValue::Int(2)]);
    same(Json(r#"{"[1,2]": 3}"#), &keyed, &CqlValue::Map(vec![(key, CqlValue::Int(3))]));

    let tuple = ColumnType::Tuple(vec![native(N::Int), native(N::Text)]);
    same(Json(r#"[1, null]"#), &tuple, &CqlValue::Tuple(vec![Some(CqlValue::Int(1)), None]));
    assert!(
        bytes(Json("[1]"), &tuple).expect_err("too short").contains("an array of 2 elements, for tuple<int, text>")
    );

    let definition = UserDefinedType {
        name: "address".into(),
        keyspace: "shop".into(),
        field_types: vec![("street".into(), native(N::Text)), ("number".into(), native(N::Int))],
    };
    let address = ColumnType::UserDefinedType { frozen: true, definition: Arc::new(definition) };
    let expected = |number: Option<i32>| CqlValue::UserDefinedType {
        keyspace: "shop".into(),
        name: "address".into(),
        fields: vec![
            ("street".into(), Some(CqlValue::Text("Elm".into()))),
            ("number".into(), number.map(CqlValue::Int)),
        ],
    };
    same(Json(r#"{"number": "5", "STREET": "Elm"}"#), &address, &expected(Some(5)));
    same(Json(r#"{"street": "Elm"}"#), &address, &expected(None));
    let unknown = bytes(Json(r#"{"streat": "Elm"}"#), &address).expect_err("no such field");
    assert_eq!(unknown, "found the field \"streat\", wanted the fields of address: street, number");
}

#[test]
fn vectors_have_their_length() {
    let vector = |of: NativeType| ColumnType::Vector { typ: Box::new(native(of)), dimensions: 2 };
    let floats = CqlValue::Vector(vec![CqlValue::Float(1.0), CqlValue::Float(-0.5)]);
    same(Json("[1, -0.5]"), &vector(N::Float), &floats);
    let texts = CqlValue::Vector(vec![CqlValue::Text("a".repeat(200)), CqlValue::Text(String::new())]);
    same(Json(&format!("[\"{}\", \"\"]", "a".repeat(200))), &vector(N::Text), &texts);
    assert!(bytes(Json("[1]"), &vector(N::Float)).expect_err("too short").contains("an array of 2 elements"));
}

#[test]
fn null_as_json_is_null() {
    assert_eq!(bytes(Json(" null "), &native(N::Int)), Err("null".into()));
    let set = collection(CollectionType::Set(Box::new(native(N::Int))));
    assert_eq!(bytes(Json("null"), &set), Err("null".into()));
}

#[test]
fn excerpts_are_short() {
    let long = "ä".repeat(1000);
    let error = bytes(Text(&long), &native(N::Int)).expect_err("no number");
    assert!(error.len() < 200 && error.contains("(2000 bytes)"), "{error}");
}

proptest! {
    #[test]
    fn numbers_read_back_as_themselves(whole in any::<i64>(), fraction in any::<f64>(), small in any::<i32>()) {
        same(S64(whole), &native(N::BigInt), &CqlValue::BigInt(whole));
        same(Text(&whole.to_string()), &native(N::BigInt), &CqlValue::BigInt(whole));
        same(S64(i64::from(small)), &native(N::Int), &CqlValue::Int(small));
        same(S64(whole), &native(N::Timestamp), &CqlValue::Timestamp(CqlTimestamp(whole)));
        prop_assert_eq!(bytes(S64(whole), &native(N::Int)).is_ok(), i32::try_from(whole).is_ok());
        if fraction.is_finite() {
            same(number(fraction), &native(N::Double), &CqlValue::Double(fraction));
            same(Json(&format!("{fraction:?}")), &native(N::Double), &CqlValue::Double(fraction));
        }
    }

    #[test]
    fn durations_are_bound_as_the_driver_binds_them(months in any::<i32>(), days in any::<i32>(), ns in any::<i64>()) {
        prop_assume!(months > i32::MIN && days > i32::MIN && ns > i64::MIN);
        let (months, days, ns, sign) = match months < 0 {
            true => (months.abs(), days.abs(), ns.abs(), -1),
            false => (months.abs(), days.abs(), ns.abs(), 1),
        };
        let text = format!("{}{months}mo{days}d{ns}ns", if sign < 0 { "-" } else { "" });
        let value = CqlDuration { months: months * sign, days: days * sign, nanoseconds: ns * i64::from(sign) };
        same(Text(&text), &native(N::Duration), &CqlValue::Duration(value));
    }

    #[test]
    fn nothing_that_comes_breaks_it(text in ".{0,40}", json in r#"[\[\]{}",:0-9a-z\-\\ ]{0,40}"#, raw in any::<Vec<u8>>()) {
        let natives = [
            N::Ascii, N::Text, N::BigInt, N::Int, N::SmallInt, N::TinyInt, N::Varint, N::Decimal, N::Float, N::Double,
            N::Boolean, N::Blob, N::Uuid, N::Timeuuid, N::Inet, N::Date, N::Time, N::Timestamp, N::Duration,
        ];
        let nested = natives.iter().cloned().map(|of| collection(CollectionType::Set(Box::new(native(of)))));
        for to in natives.iter().cloned().map(native).chain(nested) {
            for value in [Text(&text), Text(&json), Json(&json), Json(&text), Bytes(&raw)] {
                let _ = bytes(value, &to);
            }
        }
    }
}
