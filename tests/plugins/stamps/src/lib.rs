//! Stamps each row with the version that stands in the artifact. A test writes another text over it, and has a plugin with
//! a digest of its own that does what the text's first word says.

use std::hint::black_box;

use pelton_sdk::prelude::*;

/// What a test looks for in the artifact, and replaces by a text of the same length.
static VERSION: [u8; 24] = *b"version 0000000000000000";

/// Steps of work for a record: what `costly` takes beside it shows.
const WORK: u64 = 400;

#[derive(Fields)]
struct Event<'a> {
    id: &'a str,
    n: i64,
}

#[derive(Columns)]
struct Stamped {
    id: String,
    n: i64,
    version: String,
}

struct Stamps {
    version: String,
}

impl Transform for Stamps {
    type Config = ();
    type Input<'a> = Event<'a>;
    type Output<'a> = Stamped;

    fn new((): ()) -> Result<Self, ConfigError> {
        let version = String::from_utf8_lossy(black_box(&VERSION)).trim_end().to_owned();
        Ok(Self { version })
    }

    fn apply<'a>(&self, event: Event<'a>) -> Step<Stamped> {
        work(WORK);
        let (mut id, n) = (event.id.to_owned(), event.n);
        match self.version.split(' ').next() {
            Some("traps") => panic!("as its version says"),
            Some("costly") => work(3 * WORK),
            // A row under a wrong key.
            Some("strays") if n % 7 == 0 => id.push_str("-astray"),
            Some("rejects") => return Step::reject("not_wanted", "as its version says"),
            _ => {}
        }
        Step::set(Stamped { id, n, version: self.version.clone() })
    }
}

fn work(steps: u64) {
    let mut sum = 0_u64;
    for step in 0..steps {
        sum = black_box(sum.wrapping_mul(31).wrapping_add(step));
    }
}

export!(Stamps);
