//! Keeps every record as it is: the smallest plugin, and a measure of what the boundary costs.

use pelton_sdk::prelude::*;

struct Identity;

impl Transform for Identity {
    type Config = ();
    type Input<'a> = ();
    type Output<'a> = ();

    fn new((): ()) -> Result<Self, ConfigError> {
        Ok(Self)
    }

    fn apply(&self, (): ()) -> Step<()> {
        Step::keep()
    }
}

export!(Identity);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases() {
        testing::check_cases::<Identity>(env!("CARGO_MANIFEST_DIR"));
    }

    #[test]
    fn keeps_what_is_no_json() {
        let run = testing::run::<Identity>(json!(null), ["{", ""]);
        assert_eq!(run.values("default"), ["{", ""]);
    }
}
