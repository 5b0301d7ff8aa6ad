//! `pelton dlq list`: what lies among the dead letters, and what is still open.

use serde::Serialize;

use super::dlq::{Which, Whose, block_on, short_id, unreadable};
use super::table::{Side, Table, grouped, plain, time};
use super::{Exit, Outcome, say, say_json};
use crate::daemon::letters::Letters;
use crate::dead_letters::cases::{Cases, Filter};
use crate::dead_letters::groups::{Group, groups};

/// Characters of a message in the table.
const MESSAGE_CHARS: usize = 72;

/// Print what lies there: how many, by code, plugin and version, and what is still open
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    which: Which,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Listing {
    pipelines: Vec<PipelineListing>,
}

#[derive(Debug, Serialize)]
struct PipelineListing {
    pipeline: String,
    /// Where its letters lie.
    place: String,
    open: u64,
    failed_again: u64,
    redriven: u64,
    /// Records of the place that are no letters of ours.
    foreign: u64,
    /// The newest first.
    groups: Vec<Group>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let (places, filter) = (args.whose.places()?, args.which.filter(&[])?);
    let listing = block_on(async {
        let mut pipelines = Vec::new();
        for letters in &places {
            pipelines.push(list(letters, &filter).await.map_err(unreadable)?);
        }
        Ok(Listing { pipelines })
    })?;
    if args.json {
        say_json(&listing)?;
    } else {
        let dir = args.whose.shown_dir();
        listing.pipelines.iter().for_each(|pipeline| say(page(pipeline, &dir).trim_end()));
    }
    Ok(Exit::Success)
}

async fn list(letters: &Letters, filter: &Filter) -> Result<PipelineListing, crate::pipeline::SourceError> {
    let Letters { pipeline, place } = letters;
    let cases = Cases::read(&**place, &pipeline.name, |_| false).await?;
    let groups = groups(cases.cases.values().filter(|case| filter.takes(case)));
    let sum = |of: fn(&Group) -> u64| groups.iter().map(of).sum();
    Ok(PipelineListing {
        pipeline: pipeline.name.clone(),
        place: place.name(),
        open: sum(|group| group.open),
        failed_again: sum(|group| group.failed_again),
        redriven: sum(|group| group.redriven),
        foreign: cases.foreign.0,
        groups,
    })
}

fn page(listing: &PipelineListing, dir: &str) -> String {
    let PipelineListing { pipeline, place, open, failed_again, redriven, foreign, groups } = listing;
    let mut page = format!(
        "{pipeline} ({place}): {} open, {} failed again, {} redriven\n",
        grouped(*open),
        grouped(*failed_again),
        grouped(*redriven)
    );
    if *foreign > 0 {
        page.push_str(&format!("  {} records there are no letters of Pelton's\n", grouped(*foreign)));
    }
    if groups.is_empty() {
        return page;
    }
    page.push_str(&table(groups));
    let Some(group) = groups.iter().find(|group| group.open + group.failed_again > 0) else { return page };
    page.push_str(&format!("  look at one:    pelton dlq show {}{dir}\n", plain(short_id(&group.example))));
    let again = if group.open == 0 { " --again" } else { "" };
    let code = plain(&group.code);
    page.push_str(&format!("  send through:   pelton dlq redrive {pipeline}{dir} --code {code}{again} --dry-run\n"));
    page
}

fn table(groups: &[Group]) -> String {
    let left = |title| (title, Side::Left);
    let right = |title| (title, Side::Right);
    let mut table = Table::new(
        "  ",
        &[
            right("OPEN"),
            right("FAILED AGAIN"),
            right("REDRIVEN"),
            left("CODE"),
            left("STAGE"),
            left("PLUGINS"),
            left("FIRST"),
            left("LAST"),
            left("EXAMPLE"),
            left("MESSAGE"),
        ],
    );
    for group in groups {
        let digests: Vec<String> = group.digests.iter().map(|digest| digest.chars().take(8).collect()).collect();
        let message: String = plain(&group.message).chars().take(MESSAGE_CHARS).collect();
        table.row([
            grouped(group.open),
            grouped(group.failed_again),
            grouped(group.redriven),
            plain(&group.code),
            plain(&group.stage),
            plain(&digests.join(",")),
            time(group.first_ms),
            time(group.last_ms),
            plain(short_id(&group.example)),
            message,
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
orders (topic shop.dlq): 1,200 open, 1 failed again, 3 redriven
  2 records there are no letters of Pelton's
   OPEN  FAILED AGAIN  REDRIVEN  CODE             STAGE                  PLUGINS            FIRST                 LAST                  EXAMPLE           MESSAGE
  1,200             1         3  negative_amount  transform:shop-orders  01234567,fedcba98  1970-01-01T00:00:01Z  1970-01-01T00:00:07Z  shop.orders/0/17  must not be\u{fffd}negative
  look at one:    pelton dlq show shop.orders/0/17 shop
  send through:   pelton dlq redrive orders shop --code negative_amount --dry-run
";

    #[test]
    fn the_page_shows_groups_and_what_to_do_next() {
        let group = Group {
            pipeline: "orders".into(),
            code: "negative_amount".into(),
            stage: "transform:shop-orders".into(),
            plugin: Some("shop-orders".into()),
            digests: vec!["0123456789abcdef".into(), "fedcba9876543210".into()],
            open: 1200,
            failed_again: 1,
            redriven: 3,
            first_ms: Some(1_000),
            last_ms: Some(7_000),
            example: "shop.orders/0/17/dead-letter".into(),
            message: "must not be\nnegative".into(),
        };
        let listing = PipelineListing {
            pipeline: "orders".into(),
            place: "topic shop.dlq".into(),
            open: 1200,
            failed_again: 1,
            redriven: 3,
            foreign: 2,
            groups: vec![group],
        };
        assert_eq!(page(&listing, " shop"), PAGE);
        let nothing = PipelineListing { open: 0, failed_again: 0, redriven: 0, foreign: 0, groups: vec![], ..listing };
        assert_eq!(page(&nothing, ""), "orders (topic shop.dlq): 0 open, 0 failed again, 0 redriven\n");
    }
}
