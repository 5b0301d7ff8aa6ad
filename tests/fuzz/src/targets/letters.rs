//! Dead letters and packed headers: `pipeline/dead_letter_file.rs`, `record/batch.rs`.

use super::Bytes;
use crate::pipeline::dead_letter_file::{DeadLetterLine, SpillPointer};
use crate::pipeline::{DeadLetter, LogLevel, LogLine};
use crate::record::{HeaderIter, Offset, TopicPartition, WriteTime, push_header};

/// Packed headers, and letters as lines: what we write comes back, and what others wrote does not harm.
pub fn letters(bytes: &[u8]) {
    headers(bytes);
    if let Ok(line) = serde_json::from_slice::<DeadLetterLine>(bytes)
        && let Ok((_, _, headers)) = line.record()
    {
        assert_eq!(HeaderIter::new(&headers).count(), line.headers.len());
    }
    if let Ok(pointer) = serde_json::from_slice::<SpillPointer>(bytes) {
        let text = serde_json::to_vec(&pointer).expect("texts and numbers always encode");
        assert_eq!(serde_json::from_slice::<SpillPointer>(&text).expect("it comes back"), pointer);
    }
    round_trip(Bytes(bytes));
}

fn headers(packed: &[u8]) {
    let mut read = HeaderIter::new(packed);
    let mut again = Vec::new();
    for (name, value) in read.by_ref() {
        push_header(&mut again, name, value);
    }
    assert!(packed.starts_with(&again), "what was read is what stands there");
    assert_eq!(read.is_done(), again.len() == packed.len(), "the end is told from damage");
}

fn round_trip(mut bytes: Bytes<'_>) {
    let mut packed = Vec::new();
    for _ in 0..bytes.byte() % 4 {
        let name = bytes.text();
        let value = (bytes.byte() > 99).then(|| bytes.chunk());
        push_header(&mut packed, &name, value);
    }
    let part = |bytes: &mut Bytes<'_>| (bytes.byte() > 99).then(|| bytes.chunk().to_vec());
    let letter = DeadLetter {
        pipeline: bytes.text(),
        source: TopicPartition::new(&bytes.text(), bytes.byte().into()),
        offset: Offset(bytes.long()),
        timestamp_ms: (bytes.byte() > 99).then(|| bytes.long()),
        key: part(&mut bytes),
        value: part(&mut bytes),
        headers: packed,
        stage: bytes.text(),
        code: bytes.text(),
        message: bytes.text(),
        backtrace: (bytes.byte() > 99).then(|| bytes.text()),
        logs: vec![LogLine { level: LogLevel::Warn, message: bytes.text() }],
        digests: vec![bytes.text()],
        attempts: bytes.number(),
        write_time: WriteTime(bytes.long()),
        partial: bytes.byte() > 127,
        id: bytes.text(),
        redrives: bytes.number(),
        at_ms: (bytes.byte() > 99).then(|| bytes.long()),
    };
    let line = DeadLetterLine::of(&letter);
    let text = serde_json::to_string(&line).expect("texts and numbers always encode");
    assert!(!text.contains('\n'), "a letter is one line");
    let again: DeadLetterLine = serde_json::from_str(&text).expect("what was written is read");
    assert_eq!(again, line);
    assert_eq!(again.letter().expect("our own base64"), letter);
}
