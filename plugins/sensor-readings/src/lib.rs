//! Readings of sensors, in one unit per quantity; what cannot be true goes to quarantine.

use std::collections::BTreeMap;

use pelton_sdk::prelude::*;

#[derive(Fields)]
struct Reading<'a> {
    sensor: &'a str,
    #[field(symbol)]
    quantity: &'a str,
    /// Sensors send `null`, `"NaN"` and `"21,5"` when they are ill.
    #[field(on_mismatch = "null")]
    value: Option<f64>,
    #[field(symbol)]
    unit: Option<&'a str>,
    /// Cheap sensors have no clock.
    #[field(on_mismatch = "null")]
    measured_at: Option<i64>,
    #[field(path = "battery.percent", on_mismatch = "null")]
    battery: Option<u8>,
}

#[derive(Columns, Default)]
struct Clean<'a> {
    value: Option<f64>,
    #[column(symbol)]
    unit: Option<&'a str>,
    measured_at: Option<i64>,
    battery_percent: Set<u8>,
    #[column(symbol)]
    quarantine: Option<&'static str>,
}

#[derive(Deserialize)]
struct Range {
    min: f64,
    max: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Quantity to range, in its canonical unit.
    #[serde(default)]
    ranges: BTreeMap<String, Range>,
    #[serde(default = "five_minutes")]
    ahead_at_most_s: i64,
}

fn five_minutes() -> i64 {
    300
}

struct SensorReadings {
    config: Config,
}

impl Transform for SensorReadings {
    type Config = Config;
    type Input<'a> = Reading<'a>;
    type Output<'a> = Clean<'a>;
    const OUTPUTS: &'static [&'static str] = &["quarantine"];

    fn new(config: Config) -> Result<Self, ConfigError> {
        match config.ranges.iter().find(|(_, range)| range.min >= range.max) {
            Some((quantity, _)) => Err(ConfigError::key("ranges", format!("{quantity}: min must be below max"))),
            None => Ok(Self { config }),
        }
    }

    fn apply<'a>(&self, reading: Reading<'a>) -> Step<Clean<'a>> {
        if reading.sensor.trim().is_empty() {
            return Step::reject("no_sensor", "sensor is empty");
        }
        let Some(value) = reading.value else {
            return quarantine("no_value");
        };
        let (value, unit) = match convert(reading.quantity, value, reading.unit.map(str::trim)) {
            Ok(converted) => converted,
            Err(Unknown::Quantity) => {
                return Step::skip("unknown_quantity", format!("quantity {:?}", reading.quantity));
            }
            Err(Unknown::Unit) => {
                let message = format!("{} is not measured in {:?}", reading.quantity, reading.unit.unwrap_or(""));
                return Step::reject("unknown_unit", message);
            }
        };
        let now_ms = clock::now_ms();
        let measured_at = reading.measured_at.unwrap_or(now_ms);
        let ahead_at_most_ms = self.config.ahead_at_most_s.saturating_mul(1000);
        let range = self.config.ranges.get(reading.quantity);
        if range.is_some_and(|range| !(range.min..=range.max).contains(&value)) {
            return quarantine("out_of_range");
        }
        if measured_at.saturating_sub(now_ms) > ahead_at_most_ms {
            return quarantine("from_the_future");
        }
        Step::set(Clean {
            value: Some((value * 1e6).round() / 1e6),
            unit: Some(unit),
            measured_at: Some(measured_at),
            battery_percent: Set::or_leave(reading.battery.filter(|percent| *percent <= 100)),
            quarantine: None,
        })
    }
}

/// The reading as it came, with the reason, for someone to look at.
fn quarantine<'a>(reason: &'static str) -> Step<Clean<'a>> {
    metrics::count("quarantined", 1);
    Step::set(Clean { quarantine: Some(reason), ..Clean::default() }).to("quarantine")
}

enum Unknown {
    Quantity,
    Unit,
}

/// The value in the quantity's canonical unit. Without a unit it is taken to be in it.
fn convert(quantity: &str, value: f64, unit: Option<&str>) -> Result<(f64, &'static str), Unknown> {
    let (canonical, converted) = match (quantity, unit) {
        ("temperature", None | Some("°C" | "C" | "℃" | "celsius")) => ("°C", value),
        ("temperature", Some("°F" | "F" | "fahrenheit")) => ("°C", (value - 32.0) / 1.8),
        ("temperature", Some("K" | "kelvin")) => ("°C", value - 273.15),
        ("pressure", None | Some("hPa" | "mbar")) => ("hPa", value),
        ("pressure", Some("Pa")) => ("hPa", value / 100.0),
        ("pressure", Some("kPa")) => ("hPa", value * 10.0),
        ("pressure", Some("mmHg" | "torr")) => ("hPa", value * 1.333_223_7),
        ("humidity", None | Some("%" | "%RH")) => ("%", value),
        ("humidity", Some("1")) => ("%", value * 100.0),
        ("temperature" | "pressure" | "humidity", Some(_)) => return Err(Unknown::Unit),
        _ => return Err(Unknown::Quantity),
    };
    Ok((converted, canonical))
}

export!(SensorReadings);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases() {
        testing::check_cases::<SensorReadings>(env!("CARGO_MANIFEST_DIR"));
    }

    #[test]
    fn units_meet_at_their_fixed_points() {
        let degrees = |value, unit| convert("temperature", value, Some(unit)).ok().map(|(value, _)| value.round());
        assert_eq!([degrees(212.0, "°F"), degrees(373.15, "K"), degrees(100.0, "C")], [Some(100.0); 3]);
        let hpa = |value, unit| convert("pressure", value, Some(unit)).ok().map(|(value, _)| value.round());
        assert_eq!([hpa(101_325.0, "Pa"), hpa(760.0, "mmHg"), hpa(101.325, "kPa")], [Some(1013.0); 3]);
    }

    #[test]
    fn an_empty_range_is_refused() {
        let config = json!({"ranges": {"humidity": {"min": 100, "max": 0}}});
        let error = testing::Driver::<SensorReadings>::new(config).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("ranges: humidity: min must be below max"));
    }
}
