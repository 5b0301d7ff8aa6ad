//! Which key of a plugin's configuration its word against it is about.
//!
//! In: the configuration, and what the plugin said. Out: the key's path below `config`, as it is written after it
//! (`.alert.above`, `.ranges[0]`), or nothing: then the whole is to blame. Pure. A plugin names the key itself
//! (`alert.above: must not be negative`), or says in serde's words what it met (`invalid type: string "much", expected
//! f64`), which stands at one place of the configuration, or at several: then nobody knows which is meant.

use serde_json::Value;

/// The key that a message is about.
pub(super) fn key(config: &Value, message: &str) -> Option<String> {
    let message = message.strip_prefix("config: ").unwrap_or(message);
    named(config, message).or_else(|| met(config, message))
}

/// `KEY: …`, with a key that stands there, or whose parent does; `KEY: unknown field `x`, …` is about what is in it.
fn named(config: &Value, message: &str) -> Option<String> {
    let (path, rest) = message.split_once(": ")?;
    let (mut value, mut key) = (config, String::new());
    for part in path.split('.') {
        let (name, indices) = part.split_once('[').map_or((part, ""), |(name, rest)| (name, rest));
        let Some(inside) = value.get(name) else { break };
        value = inside;
        key.push_str(&format!(".{name}"));
        for index in indices.split('[').filter_map(|index| index.strip_suffix(']')?.parse::<usize>().ok()) {
            let Some(inside) = value.get(index) else { break };
            value = inside;
            key.push_str(&format!("[{index}]"));
        }
    }
    if let Some(name) = quoted(rest, "unknown field `").filter(|name| value.get(name).is_some()) {
        key.push_str(&format!(".{name}"));
    }
    (!key.is_empty()).then_some(key)
}

/// A key or a value that the message repeats, where it stands there once.
fn met(config: &Value, message: &str) -> Option<String> {
    let mut places = Vec::new();
    if let Some(name) = quoted(message, "unknown field `") {
        places_of(
            config,
            String::new(),
            &mut |key, value| {
                value.as_object().is_some_and(|object| object.contains_key(name)).then(|| format!("{key}.{name}"))
            },
            &mut places,
        );
    } else {
        let (_, said) = message.split_once("invalid ").unwrap_or(("", message));
        places_of(config, String::new(), &mut |key, value| is_said(value, said).then(|| key.to_owned()), &mut places);
    }
    match places.as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    }
}

fn quoted<'m>(message: &'m str, before: &str) -> Option<&'m str> {
    let (_, rest) = message.split_once(before)?;
    rest.split_once('`').map(|(name, _)| name)
}

/// Whether serde's words begin with this value: `type: string "much", …`, `value: integer `5`, …`.
fn is_said(value: &Value, said: &str) -> bool {
    let words = match value {
        Value::String(text) if said.starts_with("unknown variant") => format!("unknown variant `{text}`"),
        Value::String(text) => format!("string {text:?},"),
        Value::Bool(is) => format!("boolean `{is}`,"),
        Value::Number(number) if number.is_f64() => format!("floating point `{number}`,"),
        Value::Number(number) => format!("integer `{number}`,"),
        Value::Null | Value::Array(_) | Value::Object(_) => return false,
    };
    ["", "type: ", "value: "]
        .iter()
        .any(|before| said.strip_prefix(before).is_some_and(|rest| rest.starts_with(&words)))
}

fn places_of(
    value: &Value,
    key: String,
    is_place: &mut impl FnMut(&str, &Value) -> Option<String>,
    places: &mut Vec<String>,
) {
    places.extend(is_place(&key, value));
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places_of(item, format!("{key}[{index}]"), is_place, places);
            }
        }
        Value::Object(entries) => {
            for (name, entry) in entries {
                places_of(entry, format!("{key}.{name}"), is_place, places);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_key_that_a_plugin_names_is_to_blame() {
        let config = json!({ "alert": { "above": -1 }, "ranges": [{ "min": 9, "max": 1 }], "odd": "x: y" });
        let blamed = |message: &str| key(&config, message);
        assert_eq!(blamed("alert.above: must not be negative").as_deref(), Some(".alert.above"));
        assert_eq!(blamed("config: alert.above: must not be negative").as_deref(), Some(".alert.above"));
        assert_eq!(blamed("ranges[0].min: is above max").as_deref(), Some(".ranges[0].min"));
        assert_eq!(blamed("alert.below: is missing").as_deref(), Some(".alert"), "what is around it");
        assert_eq!(blamed("alert: unknown field `above`, expected `below`").as_deref(), Some(".alert.above"));
        assert_eq!(blamed("alert.above: unknown field `above`").as_deref(), Some(".alert.above"));
        assert_eq!(blamed("nothing here: to see"), None);
        assert_eq!(blamed("no key at all"), None);
    }

    #[test]
    fn what_serde_met_is_to_blame_where_it_stands_once() {
        let config = json!({
            "vat_percent": "much", "limits": { "low": 5, "high": 5, "exact": 1.5, "is": true }, "unit": "C", "typo": 1,
        });
        let blamed = |message: &str| key(&config, &format!("config: {message}"));
        assert_eq!(blamed("invalid type: string \"much\", expected f64").as_deref(), Some(".vat_percent"));
        assert_eq!(blamed("invalid type: floating point `1.5`, expected u8").as_deref(), Some(".limits.exact"));
        assert_eq!(blamed("invalid value: boolean `true`, expected a number").as_deref(), Some(".limits.is"));
        assert_eq!(blamed("invalid type: integer `5`, expected a string"), None, "it stands there twice");
        assert_eq!(blamed("unknown field `typo`, expected `vat_percent`").as_deref(), Some(".typo"));
        assert_eq!(blamed("unknown variant `C`, expected `K`").as_deref(), Some(".unit"));
        assert_eq!(blamed("missing field `late_after_hours`"), None, "it stands nowhere");
        assert_eq!(blamed("invalid type: map, expected f64"), None);
    }
}
