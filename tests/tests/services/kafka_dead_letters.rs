//! Dead letters in a topic of a real broker, and beside it.

use std::time::Duration;

use pelton::dead_letters::headers::SPILL_HEADER;
use pelton::dead_letters::{Entry, Mark, Place as _, Reached};
use pelton::kafka::{KafkaDeadLetters, KafkaPlace};
use pelton::pipeline::dead_letter_file::{DeadLetterLine, SpillPointer};
use pelton::pipeline::{DeadLetter, DeadLetters, LogLevel, LogLine};
use pelton::record::{Digest, Offset, TopicPartition, WriteTime, push_header};
use rdkafka::message::{Headers, Message, OwnedMessage};

use super::kafka_sink::{header, read_all};
use super::kafka_support::*;

fn letter(offset: i64, value: Vec<u8>) -> DeadLetter {
    let mut headers = Vec::new();
    push_header(&mut headers, "trace", Some(b"\xff\x00"));
    push_header(&mut headers, "none", None);
    DeadLetter {
        pipeline: "orders".to_owned(),
        source: TopicPartition::new("shop.orders", 4),
        offset: Offset(offset),
        timestamp_ms: Some(1_600_000_000_000),
        key: Some(b"\x00key".to_vec()),
        value: Some(value),
        headers,
        stage: "transform:shop-orders".to_owned(),
        code: "negative_amount".to_owned(),
        message: "amount must not be negative".to_owned(),
        backtrace: Some("0: here\n1: there".to_owned()),
        logs: vec![LogLine { level: LogLevel::Warn, message: "odd".to_owned() }],
        digests: vec!["00ff".to_owned(), "11ee".to_owned()],
        attempts: 3,
        write_time: WriteTime(1_600_000_000_000_003),
        partial: true,
        id: format!("shop.orders/4/{offset}/0"),
        redrives: 0,
        at_ms: None,
    }
}

fn text(message: &OwnedMessage, name: &str) -> String {
    let value = header(message, name).unwrap_or_else(|| panic!("no header {name}"));
    String::from_utf8(value).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spill_that_cannot_be_written_is_refused_before_the_first_letter() {
    let topic = Topic::new("letters", 1).await;
    let dir = tempfile::tempdir().unwrap();
    // A file where the directory should be: that stops root too.
    let in_the_way = dir.path().join("spill");
    std::fs::write(&in_the_way, b"").unwrap();
    let refused = KafkaDeadLetters::open(&connection(), &topic.name, "orders", &in_the_way).await.err().unwrap();
    let text = refused.to_string();
    assert!(text.contains(&*in_the_way.to_string_lossy()) && text.contains("`spill_dir:`"), "{text}");
    std::fs::remove_file(&in_the_way).unwrap();
    // A directory where the file should be.
    std::fs::create_dir_all(in_the_way.join("orders.jsonl")).unwrap();
    assert!(KafkaDeadLetters::open(&connection(), &topic.name, "orders", &in_the_way).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_carries_the_record_and_all_that_is_needed_to_redrive_it() {
    let topic = Topic::new("letters", 1).await;
    let spill = tempfile::tempdir().unwrap();
    let letters = KafkaDeadLetters::open(&connection(), &topic.name, "orders", spill.path()).await.unwrap();
    letters.write(vec![letter(7, b"\xfe{".to_vec())]).await;
    let message = read_all(&topic.name, 1, 1).await.remove(0);
    assert_eq!((message.key(), message.payload()), (Some(&b"\x00key"[..]), Some(&b"\xfe{"[..])));
    let names: Vec<&str> = message.headers().unwrap().iter().take(2).map(|header| header.key).collect();
    assert_eq!(names, ["trace", "none"], "the record's own headers come first, as many as `pelton.headers` says");
    let expected = [
        ("__connect.errors.topic", "shop.orders"),
        ("__connect.errors.partition", "4"),
        ("__connect.errors.offset", "7"),
        ("__connect.errors.connector.name", "orders"),
        ("__connect.errors.task.id", "4"),
        ("__connect.errors.stage", "TRANSFORMATION"),
        ("__connect.errors.class.name", "shop-orders"),
        ("__connect.errors.exception.class.name", "negative_amount"),
        ("__connect.errors.exception.message", "amount must not be negative"),
        ("__connect.errors.exception.stacktrace", "0: here\n1: there"),
        ("pelton.pipeline", "orders"),
        ("pelton.stage", "transform:shop-orders"),
        ("pelton.code", "negative_amount"),
        ("pelton.digests", "00ff,11ee"),
        ("pelton.attempts", "3"),
        ("pelton.write-time", "1600000000000003"),
        ("pelton.partial", "true"),
        ("pelton.headers", "2"),
        ("pelton.timestamp", "1600000000000"),
        ("pelton.logs", "Warn odd"),
        ("pelton-id", "shop.orders/4/7/0"),
    ];
    for (name, value) in expected {
        assert_eq!(text(&message, name), value, "{name}");
    }
    assert_eq!(header(&message, "trace"), Some(b"\xff\x00".to_vec()));
    assert!(message.timestamp().to_millis() > Some(1_700_000_000_000), "retention counts from now");
    assert_eq!(std::fs::read(spill.path().join("orders.jsonl")).unwrap(), b"", "nothing was spilled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_spilled_and_a_small_letter_points_at_it() {
    let topic = Topic::with("spill", 1, &[("max.message.bytes", "20000")]).await;
    let spill = tempfile::tempdir().unwrap();
    let letters = KafkaDeadLetters::open(&connection(), &topic.name, "orders", spill.path()).await.unwrap();
    // From what fits by far to what does not by far, and all about the edge.
    let sizes = [10, 18_000, 18_400, 18_600, 18_800, 19_000, 19_200, 19_900, 20_000, 100_000, 3_000_000];
    let sent: Vec<DeadLetter> =
        sizes.iter().enumerate().map(|(index, size)| letter(index as i64, vec![index as u8; *size])).collect();
    tokio::time::timeout(Duration::from_secs(60), letters.write(sent.clone())).await.expect("it ends");

    let messages = read_all(&topic.name, 1, sizes.len()).await;
    let mut whole = 0;
    for sent in &sent {
        let id = sent.id.as_bytes().to_vec();
        let message = messages.iter().find(|message| header(message, "pelton-id").as_ref() == Some(&id)).unwrap();
        assert_eq!(text(message, "pelton.code"), "negative_amount");
        let Some(pointer) = header(message, SPILL_HEADER) else {
            assert_eq!(message.payload(), sent.value.as_deref());
            whole += 1;
            continue;
        };
        let pointer: SpillPointer = serde_json::from_slice(&pointer).unwrap();
        let bytes = std::fs::read(spill.path().join(&pointer.file)).unwrap();
        let line = &bytes[pointer.offset as usize..][..pointer.length as usize];
        assert_eq!(Digest::of(line).to_string(), format!("sha256:{}", pointer.sha256));
        let line: DeadLetterLine = serde_json::from_slice(line).unwrap();
        assert_eq!(line, DeadLetterLine::of(sent));
        assert_eq!(line.record().unwrap(), (sent.key.clone(), sent.value.clone(), sent.headers.clone()));
    }
    assert!((2..9).contains(&whole), "some fit and some do not: {whole}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn marks_of_several_writers_have_one_order_and_are_read_on_from_where_a_reading_ended() {
    let topic = Topic::new("marks", 4).await;
    let spill = tempfile::tempdir().unwrap();
    let open = || KafkaPlace::new(&connection(), &topic.name, &topic.name, spill.path());
    let (one, other) = (open(), open());
    let mark = |number: i64| Mark {
        id: format!("in/0/{number}/dead-letter"),
        pipeline: "orders".to_owned(),
        h: number * 10,
        redrive: 1,
        write_time: number * 10,
        content: String::new(),
        done: false,
        at_ms: 0,
    };
    let mut reached = Reached::default();
    let mut found = Vec::new();
    for number in 0..12 {
        let place = if number % 2 == 0 { &one } else { &other };
        place.mark(&[mark(number)]).await.expect("marked");
        // Whoever has marked sees all that was marked before, and nothing twice.
        if number % 3 == 0 {
            let each = &mut |entry: Entry| found.push(entry);
            reached = place.read(&reached, each).await.expect("read");
            assert_eq!(found.len() as i64, number + 1);
        }
    }
    other.read(&reached, &mut |entry: Entry| found.push(entry)).await.expect("read");
    let marks: Vec<Entry> = (0..12).map(|number| Entry::Marks(vec![mark(number)])).collect();
    assert_eq!(found, marks);
    topic.delete().await;
}
