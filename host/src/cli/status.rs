//! `pelton status`: what a running daemon is doing, as a table.

use std::fmt::Write as _;

use super::daemon_address::{DaemonArgs, failure};
use super::table::{Side, Table, grouped, plain};
use super::{Exit, Failure, Outcome, say, say_json};
use crate::clock::{Clock as _, SystemClock};
use crate::status::{Phase, PipelineState, PipelineStatus, ProcessStatus};

/// Arguments of `pelton status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Print everything as one JSON object
    #[arg(long)]
    json: bool,
    /// Exit with 1, and say why, unless the daemon does all that it may (as /readyz): what is paused is ready
    #[arg(long)]
    ready: bool,
}

/// `pelton status`
pub(super) fn run(args: Args) -> Outcome {
    let status = args.daemon.client()?.status().map_err(failure)?;
    let causes = if args.ready { status.unready_causes() } else { Vec::new() };
    if !causes.is_empty() {
        return Err(Failure::new(format_args!("not ready: {}", plain(&causes.join("; ")))));
    }
    if args.json {
        say_json(&status)?;
    } else {
        say(render(&status, SystemClock.now_ms()).trim_end());
    }
    Ok(Exit::Success)
}

/// The whole page.
fn render(status: &ProcessStatus, now_ms: i64) -> String {
    let mut page = String::new();
    let phase = match status.phase {
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Draining => "draining",
    };
    let up = human_age(now_ms.saturating_sub(status.started_ms) / 1000);
    line(&mut page, format_args!("pelton {}, pid {}, {phase}, up {up}", plain(&status.version), status.pid));
    if let Some(project) = &status.project {
        line(&mut page, format_args!("project {}", plain(project)));
    }
    if status.pipelines.is_empty() {
        line(&mut page, format_args!("no pipelines"));
        return page;
    }
    line(&mut page, format_args!(""));
    page.push_str(&pipelines(status));
    for pipeline in &status.pipelines {
        page.push_str(&details(pipeline));
    }
    page
}

fn pipelines(status: &ProcessStatus) -> String {
    let mut table = Table::new(
        "",
        &[
            ("PIPELINE", Side::Left),
            ("STATE", Side::Left),
            ("LAG", Side::Right),
            ("RECORDS", Side::Right),
            ("REC/S", Side::Right),
            ("ROWS", Side::Right),
            ("ROWS/S", Side::Right),
            ("DEAD LETTERS", Side::Right),
            ("FILTERED", Side::Right),
            ("SKIPPED", Side::Right),
        ],
    );
    for pipeline in &status.pipelines {
        table.row([
            plain(&pipeline.name),
            pipeline.state.to_string(),
            known(pipeline.lag()),
            grouped(pipeline.records_total),
            rate(pipeline.records_per_second),
            grouped(pipeline.rows_total.values().sum()),
            rate(pipeline.rows_per_second),
            grouped(pipeline.dead_letters_total.values().sum()),
            grouped(pipeline.filtered_total),
            grouped(pipeline.skipped_total),
        ]);
    }
    table.render()
}

/// What there is to say about one pipeline below the table: why it stands still, what is blocked, its partitions, its
/// outputs, its dead letters.
fn details(pipeline: &PipelineStatus) -> String {
    let mut page = String::new();
    line(&mut page, format_args!(""));
    line(&mut page, format_args!("{}", plain(&pipeline.name)));
    match (&pipeline.cause, pipeline.state) {
        (Some(cause), state) => line(&mut page, format_args!("  {state}: {}", plain(cause))),
        (None, PipelineState::Running) => {}
        (None, state) => line(&mut page, format_args!("  {state}")),
    }
    if let Some(command) = &pipeline.resume_command {
        line(&mut page, format_args!("  resume with: {}", plain(command)));
    }
    if let Some(generation) = &pipeline.generation {
        line(&mut page, format_args!("  generation {}, {}", generation.number, generation.stage));
    }
    if let Some(refused) = &pipeline.refused {
        line(&mut page, format_args!("  the last reload did not stay: {}", plain(refused)));
    }
    if let Some(cause) = &pipeline.source_blocked {
        line(&mut page, format_args!("  the source is blocked: {}", plain(cause)));
    }
    for blocked in &pipeline.blocked {
        line(&mut page, format_args!("  {} is blocked: {}", plain(&blocked.output), plain(&blocked.cause)));
    }
    for partition in &pipeline.partitions {
        if let Some(held) = &partition.held {
            let (topic, number) = (plain(&partition.topic), partition.partition);
            let seconds = held.again_in_ms.div_ceil(1000);
            line(
                &mut page,
                format_args!(
                    "  {topic}/{number} is held at offset {}, tried again in {seconds} s: {}",
                    held.offset,
                    plain(&held.cause)
                ),
            );
        }
    }
    if pipeline.partitions.is_empty() {
        line(&mut page, format_args!("  no partitions are assigned to this process"));
    } else {
        page.push_str(&partitions(pipeline));
    }
    if !pipeline.rows_total.is_empty() {
        page.push_str(&counts("OUTPUT", "ROWS", &pipeline.rows_total));
    }
    if !pipeline.dead_letters_total.is_empty() {
        page.push_str(&counts("DEAD LETTERS", "RECORDS", &pipeline.dead_letters_total));
    }
    page
}

fn partitions(pipeline: &PipelineStatus) -> String {
    let mut table = Table::new(
        "  ",
        &[
            ("TOPIC", Side::Left),
            ("PARTITION", Side::Right),
            ("COMMITTED", Side::Right),
            ("END", Side::Right),
            ("LAG", Side::Right),
            ("IN FLIGHT", Side::Right),
        ],
    );
    for partition in &pipeline.partitions {
        table.row([
            plain(&partition.topic),
            partition.partition.to_string(),
            known(partition.committed.map(i64::cast_unsigned)),
            known(partition.end.map(i64::cast_unsigned)),
            known(partition.lag),
            grouped(partition.in_flight),
        ]);
    }
    table.render()
}

fn counts(title: &'static str, number: &'static str, counts: &std::collections::BTreeMap<String, u64>) -> String {
    let mut table = Table::new("  ", &[(title, Side::Left), (number, Side::Right)]);
    for (name, count) in counts {
        table.row([plain(name), grouped(*count)]);
    }
    table.render()
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(page, "{text}").expect("writing to a string does not fail");
}

fn known(number: Option<u64>) -> String {
    number.map_or_else(|| "?".to_owned(), grouped)
}

fn rate(per_second: f64) -> String {
    if per_second >= 100.0 { grouped(per_second.round() as u64) } else { format!("{per_second:.1}") }
}

fn human_age(seconds: i64) -> String {
    let seconds = seconds.max(0);
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{BlockedOutput, HeldRecord, PartitionStatus};

    fn partition(number: i32, committed: Option<i64>, end: i64) -> PartitionStatus {
        PartitionStatus {
            topic: "shop.orders".into(),
            partition: number,
            committed,
            end: Some(end),
            lag: committed.map(|committed| (end - committed).cast_unsigned()),
            in_flight: 128,
            held: None,
        }
    }

    const PAGE: &str = "\
pelton 0.1.0, pid 7, running, up 1 h 2 min
project /srv/shop

PIPELINE  STATE    LAG    RECORDS   REC/S       ROWS  ROWS/S  DEAD LETTERS  FILTERED  SKIPPED
clicks    paused     ?          0     0.0          0     0.0             0         0        0
orders    running  600  1,203,528  31,250  1,203,012    99.9             4       396        0

clicks
  paused: the breaker: 64 of 100 records failed within 10 s, last with bad_url
  resume with: pelton resume clicks
  no partitions are assigned to this process

orders
  alerts is blocked: not authorised\u{fffd}[31m
  shop.orders/1 is held at offset 17, tried again in 2 s: geo: no model loaded
  TOPIC        PARTITION  COMMITTED        END  LAG  IN FLIGHT
  shop.orders          0  1,203,400  1,204,000  600        128
  shop.orders          1          ?         17    ?        128
  OUTPUT        ROWS
  alerts          12
  default  1,203,000
  DEAD LETTERS     RECORDS
  negative_amount        3
  plugin.trap            1
";

    #[test]
    fn the_page_shows_lag_rates_dead_letters_and_causes() {
        let mut orders = PipelineStatus::starting("orders");
        orders.state = PipelineState::Running;
        orders.partitions = vec![partition(0, Some(1_203_400), 1_204_000), partition(1, None, 17)];
        orders.partitions[1].held =
            Some(HeldRecord { offset: 17, again_in_ms: 1_200, cause: "geo: no model loaded".into() });
        orders.records_total = 1_203_528;
        orders.records_per_second = 31_250.4;
        orders.rows_total = [("alerts".to_owned(), 12), ("default".to_owned(), 1_203_000)].into();
        orders.rows_per_second = 99.94;
        orders.dead_letters_total = [("negative_amount".to_owned(), 3), ("plugin.trap".to_owned(), 1)].into();
        orders.filtered_total = 396;
        orders.blocked = vec![BlockedOutput { output: "alerts".into(), cause: "not authorised\u{1b}[31m".into() }];
        let mut clicks = PipelineStatus::starting("clicks");
        clicks.state = PipelineState::Paused;
        clicks.cause = Some("the breaker: 64 of 100 records failed within 10 s, last with bad_url".into());
        clicks.resume_command = Some("pelton resume clicks".into());
        let status = ProcessStatus {
            version: "0.1.0".into(),
            pid: 7,
            project: Some("/srv/shop".into()),
            started_ms: 1_000,
            phase: Phase::Running,
            pipelines: vec![clicks, orders],
        };
        let page = render(&status, 3_726_000);
        assert_eq!(page.lines().map(str::trim_end).collect::<Vec<_>>(), PAGE.lines().collect::<Vec<_>>(), "{page}");
    }

    #[test]
    fn an_empty_process_says_so() {
        let status = ProcessStatus {
            version: "0.1.0".into(),
            pid: 7,
            project: None,
            started_ms: 0,
            phase: Phase::Starting,
            pipelines: vec![],
        };
        assert_eq!(render(&status, 59_999), "pelton 0.1.0, pid 7, starting, up 59 s\nno pipelines\n");
    }
}
