//! A disk without room under the cache of compiled plugins and under the spill: the daemon may write no file beyond 64
//! KiB, until it may again. What does not fit is waited for and named; nothing is lost, and no half file stays.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use pelton::dead_letters::headers::SPILL_HEADER;
use pelton::pipeline::dead_letter_file::DeadLetterLine;
use pelton_tests::process::{Process, get, program, repository, until};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::cassandra_support::{Keyspace, address, with_keyspace};
use crate::kafka_sink::{header, read_all};
use crate::kafka_support::{Topic, brokers};
use crate::line_support::{COLUMNS, Producing, order, positions};

fn project(topic: &Topic, letters: &Topic, keyspace: &Keyspace) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |path: &str, text: String| std::fs::write(dir.path().join(path), text).expect("a fresh file");
    std::fs::create_dir(dir.path().join("pipelines")).expect("a fresh directory");
    let plugins = repository().join("plugins");
    write(
        "pelton.yaml",
        format!(
            "kafka: {{ brokers: {} }}\ncassandra: {{ contact_points: [{}] }}\nplugin_dirs: [{}]\n\
             admin: {{ listen: 127.0.0.1:0 }}\n",
            brokers(),
            address(),
            plugins.display(),
        ),
    );
    write(
        "pipelines/orders.yaml",
        format!(
            "source:\n  kafka: {{ topics: [{0}], group: {0} }}\nsteps:\n  - plugin: shop-orders\n    \
             config: {{ vat_percent: 19, alert_above_eur: 1000000000 }}\noutputs:\n  default:\n    \
             cassandra: {{ table: {1}.orders }}\n  alerts: {{ discard: true }}\ndead_letters:\n  kafka: {{ topic: {2} }}\n",
            topic.name, keyspace.name, letters.name
        ),
    );
    dir
}

/// `pelton run`, whose files end at 64 KiB. Ignoring the signal turns the limit into an error of each write, as a full
/// disk is one.
fn on_a_full_disk(project: &Path) -> Process {
    let script = "trap '' XFSZ; ulimit -S -f 64; exec \"$0\" run \"$1\"";
    let mut command = Command::new("bash");
    Process::start(command.args(["-c", script]).arg(program("pelton")).arg(project), &project.join("full.log"))
}

/// Names of the files of a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_cache_and_the_spill_is_named_and_waited_out() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let topic = Topic::new("full", 1).await;
        let letters = Topic::with("full-dlq", 1, &[("max.message.bytes", "20000")]).await;
        keyspace.cql(&format!("CREATE TABLE KS.orders ({COLUMNS})")).await;
        let producing = Producing::to(&topic.name);
        let large = "x".repeat(300_000);
        let at = 1_770_000_000_000;
        for value in [order("a", 0, at), large.clone(), order("b", 2, at)] {
            producing.send(0, "k", &value, at);
        }
        producing.finish();
        let dir = project(&topic, &letters, &keyspace);
        let (cache, spill) = (dir.path().join(".pelton/cache"), dir.path().join(".pelton/spill"));

        let mut daemon = on_a_full_disk(dir.path());
        let admin = daemon.admin().await;
        let cause = until("the spill is blocked", || {
            daemon.assert_alive();
            let (code, body) = get(admin, "/readyz")?;
            (code == 503 && body.contains("blocked")).then_some(body)
        })
        .await;
        assert!(cause.contains("orders.jsonl") && cause.contains("File too large"), "{cause}");
        assert!(daemon.output().contains("cannot keep a compiled plugin"), "{}", daemon.output());
        assert_eq!(names(&cache), Vec::<String>::new(), "no half image stays");
        assert!(positions(&topic.name, &topic.name, 1)[0].0 <= 1, "what is not spilled is not committed");
        assert_eq!(positions("none", &letters.name, 1)[0].1, 0, "no pointer without a letter");

        let pid = Pid::from_raw(daemon.id() as i32).expect("a process");
        prlimit(Some(pid), Resource::Fsize, Rlimit { current: None, maximum: None }).expect("room again");
        until("all is committed", || {
            daemon.assert_alive();
            (positions(&topic.name, &topic.name, 1)[0].0 == 3).then_some(())
        })
        .await;
        assert_eq!(get(admin, "/readyz").map(|(code, _)| code), Some(200));
        assert!(daemon.terminate().await.success(), "{}", daemon.output());
        assert!(!daemon.output().contains("xxxxxxxx"), "no payload in the log");
        assert_eq!(keyspace.json("SELECT JSON order_id FROM KS.orders").await.len(), 2);
        let messages = read_all(&letters.name, 1, 1).await;
        assert!(messages.iter().all(|message| header(message, SPILL_HEADER).is_some()));
        let text = std::fs::read_to_string(spill.join("orders.jsonl")).expect("a spill");
        let line: DeadLetterLine = serde_json::from_str(&text).expect("one whole line, and nothing else");
        assert_eq!(line.record().expect("base64").1, Some(large.into_bytes()));

        // With room from the beginning the compiled plugin is kept.
        let mut daemon = Process::daemon(dir.path(), "roomy");
        daemon.admin().await;
        assert!(daemon.terminate().await.success());
        assert!(!daemon.output().contains("cannot keep"), "{}", daemon.output());
        assert_eq!(names(&cache).len(), 1);
        topic.delete().await;
        letters.delete().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_cannot_be_used_is_said_in_the_log_and_stops_nothing() {
    with_keyspace(|keyspace: Arc<Keyspace>| async move {
        let topic = Topic::new("cache", 1).await;
        let letters = Topic::new("cache-dlq", 1).await;
        keyspace.cql(&format!("CREATE TABLE KS.orders ({COLUMNS})")).await;
        let dir = project(&topic, &letters, &keyspace);
        let cache = dir.path().join(".pelton/cache");
        std::fs::create_dir_all(&cache).expect("a directory");
        std::fs::set_permissions(&cache, std::fs::Permissions::from_mode(0o777)).expect("set");
        let mut daemon = Process::daemon(dir.path(), "daemon");
        daemon.admin().await;
        assert!(daemon.output().contains("each start compiles them anew"), "{}", daemon.output());
        assert!(daemon.terminate().await.success());
        topic.delete().await;
        letters.delete().await;
    })
    .await;
}
