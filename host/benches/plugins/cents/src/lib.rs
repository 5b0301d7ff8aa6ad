//! Drops heartbeats, and adds the amount in cents: a filter and a computed field, the work of many pipelines.

use pelton_sdk::prelude::*;

#[derive(Fields)]
struct Event<'a> {
    #[field(symbol)]
    kind: &'a str,
    amount: f64,
}

#[derive(Columns)]
struct Cents {
    cents: i64,
}

struct AddCents;

impl Transform for AddCents {
    type Config = ();
    type Input<'a> = Event<'a>;
    type Output<'a> = Cents;

    fn new((): ()) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn apply<'a>(&self, event: Event<'a>) -> Step<Cents> {
        if event.kind == "heartbeat" {
            return Step::drop();
        }
        Step::set(Cents { cents: (event.amount * 100.0).round() as i64 })
    }
}

export!(AddCents);
