//! What was found: a table for people, one JSON object for machines, and a picture.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::measure::{Pair, Spread};

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    More,
    Less,
}

/// One row of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) group: String,
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    pub(crate) ours: Spread,
    /// What it is compared with, measured in the same rounds.
    pub(crate) native: Option<Spread>,
    /// Ours by theirs, round by round.
    pub(crate) ratio: Option<Spread>,
    pub(crate) aim: Option<Aim>,
    /// For machines.
    pub(crate) labels: BTreeMap<String, String>,
}

/// What was wanted.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Aim {
    pub(crate) wanted: f64,
    pub(crate) found: f64,
    pub(crate) what: String,
    pub(crate) met: bool,
}

impl Figure {
    pub(crate) fn new(group: &str, name: &str, unit: &str, better: Better) -> Self {
        Self {
            group: group.to_owned(),
            name: name.to_owned(),
            unit: unit.to_owned(),
            better,
            ours: Spread::default(),
            native: None,
            ratio: None,
            aim: None,
            labels: BTreeMap::new(),
        }
    }

    pub(crate) fn ours(self, ours: Spread) -> Self {
        Self { ours, ..self }
    }

    pub(crate) fn pair(self, pair: &Pair) -> Self {
        Self { ours: pair.ours, native: Some(pair.theirs), ratio: Some(pair.ratio), ..self }
    }

    pub(crate) fn with(mut self, label: &str, value: &str) -> Self {
        self.labels.insert(label.to_owned(), value.to_owned());
        self
    }

    /// What was wanted, and what it is to be held against.
    pub(crate) fn aim(self, wanted: f64, found: f64, what: &str) -> Self {
        let met = if self.better_is_more_for(what) { found >= wanted } else { found <= wanted };
        Self { aim: Some(Aim { wanted, found, what: what.to_owned(), met }), ..self }
    }

    fn better_is_more_for(&self, what: &str) -> bool {
        what.ends_with("at least") || (self.better == Better::More && !what.ends_with("at most"))
    }
}

/// The whole report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) date: String,
    pub(crate) commit: String,
    pub(crate) machine: String,
    pub(crate) mode: String,
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    /// A table in Markdown, so that it can stand in a document as it is.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{}, {}; {} run of {}\n\n", self.date, self.machine, self.mode, self.commit);
        text.push_str("| What | Unit | Pelton | Native | Ratio (quartiles) | Aim |\n|---|---|---:|---:|---:|---|\n");
        for figure in &self.figures {
            let native = figure.native.map_or_else(|| "–".to_owned(), |spread| number(spread.median));
            let ratio = figure.ratio.map_or_else(
                || format!("({}–{})", number(figure.ours.q1), number(figure.ours.q3)),
                |ratio| format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.q1, ratio.q3),
            );
            let aim = figure.aim.as_ref().map_or_else(String::new, |aim| {
                format!("{} {}: {}", number(aim.wanted), aim.what, if aim.met { "met" } else { "**missed**" })
            });
            let ours = number(figure.ours.median);
            text.push_str(&format!(
                "| {}: {} | {} | {ours} | {native} | {ratio} | {aim} |\n",
                figure.group, figure.name, figure.unit
            ));
        }
        text
    }

    /// Ratios as bars, native being the line at 1: what a reader sees first.
    pub(crate) fn picture(&self) -> String {
        let shown: Vec<(&Figure, f64, Spread)> = self
            .figures
            .iter()
            .filter(|figure| figure.labels.contains_key("picture"))
            .filter_map(|figure| {
                let ratio = figure.ratio?;
                Some((figure, if figure.better == Better::More { ratio.median } else { 1.0 / ratio.median }, ratio))
            })
            .collect();
        let (left, width, row) = (300.0, 360.0, 34.0);
        let most = shown.iter().map(|(_, ratio, _)| *ratio).fold(1.25, f64::max);
        let x = |ratio: f64| left + width * (ratio / most).min(1.0);
        let height = 58.0 + row * shown.len() as f64;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 {height}\" font-family=\"sans-serif\" \
             font-size=\"13\" role=\"img\">\n<title>Pelton against native Rust on the same work</title>\n\
             <rect width=\"720\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"16\" y=\"24\" font-weight=\"bold\">Pelton against native Rust on the same work (native = 1; \
             more is better)</text>\n"
        );
        for (at, (figure, ratio, _)) in shown.iter().enumerate() {
            let y = 40.0 + row * at as f64;
            let colour = if *ratio >= 0.995 { "#2f7d5b" } else { "#3b6ea5" };
            svg.push_str(&format!(
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n<rect x=\"{left}\" y=\"{y}\" width=\"{:.1}\" \
                 height=\"20\" rx=\"2\" fill=\"{colour}\"/>\n<text x=\"{:.1}\" y=\"{}\">{ratio:.2}</text>\n",
                left - 10.0,
                y + 15.0,
                escaped(figure.labels.get("picture").unwrap_or(&figure.name)),
                x(*ratio) - left,
                x(*ratio) + 6.0,
                y + 15.0,
            ));
        }
        let (one, bottom) = (x(1.0), height - 16.0);
        svg.push_str(&format!(
            "<line x1=\"{one:.1}\" y1=\"34\" x2=\"{one:.1}\" y2=\"{bottom}\" stroke=\"#888888\" \
             stroke-dasharray=\"3 3\"/>\n<text x=\"16\" y=\"{}\" font-size=\"11\" fill=\"#666666\">make bench, {}, {}\
             </text>\n</svg>\n",
            height - 8.0,
            escaped(&self.date),
            escaped(&self.machine),
        ));
        svg
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Three digits that count, and separators.
fn number(value: f64) -> String {
    let magnitude = value.abs();
    let text = match magnitude {
        _ if magnitude >= 100.0 => format!("{value:.0}"),
        _ if magnitude >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
    let Some(head) = digits.split('.').next().filter(|head| head.len() > 3) else { return text };
    let mut grouped = sign.to_owned();
    for (at, digit) in head.chars().enumerate() {
        if at > 0 && (head.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
