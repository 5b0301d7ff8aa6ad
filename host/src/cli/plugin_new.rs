//! `pelton plugin new NAME`

use std::path::{Path, PathBuf};

use super::{Exit, Failure, Outcome, say, say_json};
use crate::plugin::build::Language;
use crate::plugin::scaffold::{self, SDK_COPY, Scaffold, ScaffoldError};
use crate::shell;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Lower-case letters, digits and `-`
    name: String,
    /// What it is written in
    #[arg(long, value_name = "LANGUAGE", value_enum, default_value_t = Lang::Rust)]
    lang: Lang,
    /// The directory to make it in [default: plugins/ of the project here, else the directory here]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// The SDK's directory [default: the repository's, else a copy that comes with this binary]
    #[arg(long, value_name = "PATH")]
    sdk: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Lang {
    Rust,
    Python,
}

impl From<Lang> for Language {
    fn from(lang: Lang) -> Self {
        match lang {
            Lang::Rust => Self::Rust,
            Lang::Python => Self::Python,
        }
    }
}

pub(super) fn run(args: Args) -> Outcome {
    let here = || PathBuf::from(if Path::new("pelton.yaml").is_file() { "plugins" } else { "." });
    let parent = args.dir.unwrap_or_else(here);
    let made = scaffold::create(&args.name, args.lang.into(), &parent, args.sdk.as_deref());
    let made = made.map_err(|error| match &error {
        ScaffoldError::Io { .. } => Failure::from(error),
        _ => Failure::usage(error),
    })?;
    if args.json {
        say_json(&made)?;
    } else {
        as_text(&made, &parent.join(&made.name)).iter().for_each(say);
    }
    Ok(Exit::Success)
}

fn as_text(made: &Scaffold, dir: &Path) -> Vec<String> {
    let dir = dir.strip_prefix(".").unwrap_or(dir).display().to_string();
    let argument = shell::quoted(&dir);
    let name = &made.name;
    let source = match made.language {
        Language::Rust => "src/lib.rs     the transform, with native tests",
        Language::Python => "plugin.py      the transform; test_plugin.py tests it natively",
    };
    let mut lines = vec![
        format!("Made {dir}/"),
        format!("  {source}"),
        "  plugin.yaml    what it may use".to_owned(),
        "  cases/         input, configuration, expected output".to_owned(),
    ];
    if made.sdk.starts_with(SDK_COPY) {
        lines.push(format!("  {SDK_COPY}/   the SDK"));
    }
    lines.extend([
        String::new(),
        "Next:".to_owned(),
        format!("  pelton plugin build {argument}     # makes {name}.wasm"),
        format!("  pelton plugin test {argument}      # runs the cases through the real host"),
        match made.language {
            Language::Rust => {
                format!(
                    "  cargo test --manifest-path {argument}/Cargo.toml     # the same natively, and the unit tests"
                )
            }
            Language::Python => {
                let tests = format!("PYTHONPATH={} python3 -m unittest", shell::quoted(&made.sdk));
                format!("  cd {argument} && {tests}     # the same natively, and the unit tests")
            }
        },
        String::new(),
        "In a pipeline:".to_owned(),
        "  steps:".to_owned(),
        format!("    - plugin: {name}"),
        "      config: { large_from_cents: 10000 }".to_owned(),
    ]);
    lines
}
