//! What a batch costs at the boundary of a plugin: `cargo bench -p pelton --bench boundary`.
//!
//! Thread CPU time, median of several repetitions, per record; so other work on the machine disturbs it little. Two
//! guests of `tests/guests`: `chokes` gets the value column and looks at one byte of each, `mirrors` gets every column,
//! and answers with an edit for each row and three set-fields. Neither does work of its own: what is seen is the
//! boundary, the check of the answer included. Without optimisation the figures mean nothing: columns are then copied
//! byte by byte.

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs, reason = "a benchmark speaks to a terminal")]

#[path = "../tests/support/mod.rs"]
mod support;

use pelton::pipeline::{Transform as _, TransformInput};
use pelton::plugin::WasmTransform;
use pelton::record::{Batch, FieldColumn, Offset, TopicPartition};

const REPETITIONS: usize = 9;
const RECORDS_A_REPETITION: usize = 200_000;

fn main() {
    println!("{:>8} {:>8} {:>8} {:>12}", "guest", "bytes", "batch", "ns/record");
    for guest in ["chokes", "mirrors"] {
        let loaded = support::load(guest);
        for bytes in [87, 270, 973] {
            for rows in [1, 16, 128, 1024] {
                println!("{guest:>8} {bytes:>8} {rows:>8} {:>12.1}", measure(&loaded, bytes, rows));
            }
        }
    }
}

fn measure(guest: &WasmTransform, bytes: usize, rows: usize) -> f64 {
    let mut batch = Batch::new(TopicPartition::new("shop.orders", 0));
    let value = vec![b'{'; bytes];
    for row in 0..rows {
        let headers = [("trace", Some(&[b'a'; 32][..])), ("type", Some(&b"order"[..]))];
        batch.push(Offset(row as i64), Some(1_700_000_000_000), Some(&[b'k'; 16]), Some(&value), headers);
    }
    let names = FieldColumn {
        values: (0..=rows as u32).flat_map(|row| (row * 3).to_le_bytes()).collect(),
        data: b"Ann".repeat(rows),
        ..FieldColumn::default()
    };
    let fields = &[names][..guest.subscription().value_fields.len()];
    let input = TransformInput { batch: &batch, value_fields: fields };
    let calls = (RECORDS_A_REPETITION / rows).clamp(1, 20_000);
    let mut samples: Vec<f64> = (0..REPETITIONS)
        .map(|_| {
            let before = thread_cpu_ns();
            for _ in 0..calls {
                std::hint::black_box(guest.apply(&input).unwrap());
            }
            (thread_cpu_ns() - before) as f64 / (calls * rows) as f64
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    samples[REPETITIONS / 2]
}

fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
