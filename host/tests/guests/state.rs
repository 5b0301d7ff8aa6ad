//! Guests that remember.

use pelton::pipeline::{Transform as _, TransformInput};

use crate::support::{apply, batch, load};

guests! {
    hides_state => {
        let guest = load("hides_state");
        let records = batch(&["a"]);
        let fresh = apply(&guest, &records).unwrap();
        let reused = apply(&guest, &records).unwrap();
        guest.drop_instances();
        let fresh_again = apply(&guest, &records).unwrap();
        assert_ne!(fresh.rows, reused.rows);
        assert_eq!(fresh.rows, fresh_again.rows);
    }
}

#[test]
fn a_guest_may_be_asked_for_on_an_instance_that_has_seen_nothing() {
    let guest = load("hides_state");
    let records = batch(&["a"]);
    let first = apply(&guest, &records).unwrap();
    let input = TransformInput { batch: &records, value_fields: &[] };
    for _ in 0..3 {
        assert_eq!(guest.apply_fresh(&input).unwrap().rows, first.rows);
    }
}
