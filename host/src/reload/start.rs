//! With which generation a pipeline starts.
//!
//! In: its steps as its files have them, and its history. Out: the number of that generation, and its steps: those of the
//! files, unless that version was rolled back. A restart is no reason to try it again.

use std::sync::Arc;

use super::history::History;
use crate::pipeline::Transform as _;
use crate::plugin::{Runtime, WasmTransform};
use crate::startup::PreparedPipeline;
use crate::status::reloads::GenerationStatus;

/// What a pipeline starts with.
pub struct Beginning {
    /// The number of its generation.
    pub number: u64,
    /// What is to be known of it: its files hold a version that was rolled back.
    pub caution: Option<String>,
}

impl Beginning {
    fn plain(number: u64) -> Self {
        Self { number, caution: None }
    }
}

/// What a pipeline starts with; its steps are exchanged where that has to be.
pub fn begin(history: &History, prepared: &mut PreparedPipeline, runtime: &Arc<Runtime>) -> Beginning {
    let name = prepared.pipeline.name.clone();
    let configuration = prepared.pipeline.digest.short();
    let is_live = |prepared: &PreparedPipeline, last: &GenerationStatus| {
        last.configuration == configuration && last.plugins.iter().map(|plugin| &plugin.digest).eq(&digests(prepared))
    };
    let Some(last) = history.last_live(&name) else { return Beginning::plain(history.next(&name)) };
    if is_live(prepared, last) {
        return Beginning::plain(last.number);
    }
    let Some(gone) = history.rolled_back(&name, &digests(prepared), &configuration) else {
        return Beginning::plain(history.next(&name));
    };
    let cause = gone.cause.as_deref().unwrap_or_default();
    let rolled_back =
        format!("the files have the version of generation {}, which was rolled back ({cause})", gone.number);
    let (number, caution) = match again(history, prepared, last, runtime) {
        Ok(before) => {
            *prepared = before;
            let caution = format!(
                "{rolled_back}: the one before was started. Put another in its place, or try it again with `pelton reload --force`"
            );
            (last.number, caution)
        }
        Err(why) => {
            let caution = format!("{rolled_back}, and the one before cannot be started ({why}): it was started again");
            (history.next(&name), caution)
        }
    };
    tracing::error!(pipeline = name, generation = number, "{caution}");
    Beginning { number, caution: Some(caution) }
}

fn digests(prepared: &PreparedPipeline) -> Vec<String> {
    prepared.transforms.iter().map(|transform| transform.digest().to_string()).collect()
}

/// The steps of a generation, from the artifacts that were kept.
fn again(
    history: &History,
    prepared: &PreparedPipeline,
    last: &GenerationStatus,
    runtime: &Arc<Runtime>,
) -> Result<PreparedPipeline, String> {
    if last.configuration != prepared.pipeline.digest.short() || last.plugins.len() != prepared.transforms.len() {
        return Err("its configuration was another one".to_owned());
    }
    let mut before = prepared.clone();
    before.transforms.clear();
    for (step, plugin) in before.pipeline.steps.iter().zip(&last.plugins) {
        let path = history.artifact(&plugin.digest).ok_or("its artifact was not kept")?;
        let loaded = WasmTransform::load(runtime, &step.plugin, &path, &step.config, &step.grants, step.limits);
        let loaded = loaded.map_err(|error| format!("{}: {error}", path.display()))?;
        if loaded.digest().to_string() != plugin.digest {
            return Err(format!("{} is not what was kept there", path.display()));
        }
        before.transforms.push(Arc::new(loaded));
    }
    Ok(before)
}
