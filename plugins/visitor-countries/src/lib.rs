//! Where visitors come from: one question to a service for each address of a batch, all of them at once.

use std::time::Duration;

use pelton_sdk::prelude::*;

/// Until a visit is tried again whose answer did not come.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Config {
    service: String,
}

#[derive(Fields)]
struct Visit<'a> {
    ip: &'a str,
}

#[derive(Columns)]
struct Row {
    country: String,
}

#[derive(Deserialize)]
struct Place {
    country: String,
}

struct VisitorCountries {
    config: Config,
    places: http::LookUps,
}

impl VisitorCountries {
    fn url(&self, visit: &Visit<'_>) -> String {
        // What a record says becomes part of a URL: nothing but an address may.
        let ip: String = visit.ip.chars().filter(|c| c.is_ascii_hexdigit() || matches!(c, '.' | ':')).collect();
        format!("{}/ip/{ip}", self.config.service)
    }
}

impl Transform for VisitorCountries {
    type Config = Config;
    type Input<'a> = Visit<'a>;
    type Output<'a> = Row;

    fn new(config: Config) -> Result<Self, ConfigError> {
        if !config.service.starts_with("http") || config.service.ends_with('/') {
            return Err(ConfigError::key("service", "write a URL without a slash at its end"));
        }
        Ok(Self { config, places: http::LookUps::default() })
    }

    fn prepare<'a>(&'a self, batch: Inputs<'a, '_, Self>) {
        self.places.ask(batch.map(|visit| self.url(&visit)));
    }

    fn apply<'a>(&'a self, visit: Visit<'a>) -> Step<Row> {
        match self.places.get(&self.url(&visit)) {
            Ok(answer) if answer.status == 404 => Step::reject("unknown_address", "the service does not know it"),
            Ok(answer) if answer.status >= 500 => Step::retry(AGAIN_AFTER, "no_answer", "the service has failed"),
            Ok(answer) => match answer.read_json::<Place>() {
                Ok(place) => Step::set(Row { country: place.country }),
                Err(why) => Step::reject("bad_answer", why),
            },
            Err(error) if error.is_transient() => Step::retry(AGAIN_AFTER, "no_answer", error.to_string()),
            Err(error) => Step::reject("not_asked", error.to_string()),
        }
    }
}

export!(VisitorCountries);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases() {
        testing::check_cases::<VisitorCountries>(env!("CARGO_MANIFEST_DIR"));
    }

    #[test]
    fn an_address_is_asked_for_once_a_batch() {
        let asked = std::rc::Rc::new(std::cell::Cell::new(0));
        let counts = std::rc::Rc::clone(&asked);
        let plugin = testing::Driver::<VisitorCountries>::new(json!({"service": "https://geo.example"}))
            .expect("a valid configuration")
            .answering(move |_| {
                counts.set(counts.get() + 1);
                Ok(http::Response::json(&json!({"country": "DE"})))
            });
        let run = plugin.run([r#"{"ip": "192.0.2.1"}"#; 5]);
        assert_eq!((run.values("default").len(), asked.get()), (5, 1));
    }
}
