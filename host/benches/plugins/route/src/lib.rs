//! Sends records on by their `type` header: alerts to an output of their own, heartbeats nowhere.

use pelton_sdk::prelude::*;

#[derive(Fields)]
struct Head<'a> {
    #[field(header = "type")]
    kind: Option<&'a str>,
}

struct Route;

impl Transform for Route {
    type Config = ();
    type Input<'a> = Head<'a>;
    type Output<'a> = ();
    const OUTPUTS: &'static [&'static str] = &["alerts"];

    fn new((): ()) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn apply<'a>(&self, head: Head<'a>) -> Step<()> {
        match head.kind {
            Some("beat") => Step::drop(),
            Some("alert") => Step::keep().to("alerts"),
            _ => Step::keep(),
        }
    }
}

export!(Route);
