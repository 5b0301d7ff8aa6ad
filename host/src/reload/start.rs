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

/// The number of the generation that a pipeline starts with; its steps are exchanged where that has to be.
pub fn begin(history: &History, prepared: &mut PreparedPipeline, runtime: &Arc<Runtime>) -> u64 {
    let name = prepared.pipeline.name.clone();
    let configuration = prepared.pipeline.digest.short();
    let is_live = |prepared: &PreparedPipeline, last: &GenerationStatus| {
        last.configuration == configuration && last.plugins.iter().map(|plugin| &plugin.digest).eq(&digests(prepared))
    };
    let Some(last) = history.last_live(&name) else { return 1 };
    if is_live(prepared, last) {
        return last.number;
    }
    let Some(gone) = history.rolled_back(&name, &digests(prepared), &configuration) else {
        return history.next(&name);
    };
    let cause = gone.cause.as_deref().unwrap_or_default();
    match again(history, prepared, last, runtime) {
        Ok(before) => {
            tracing::error!(
                pipeline = name,
                generation = last.number,
                "the files have the version of generation {}, which was rolled back ({cause}): the one before is started. \
                 Put another in its place, or try it again with `pelton reload --force {name}`",
                gone.number
            );
            *prepared = before;
            last.number
        }
        Err(why) => {
            tracing::error!(
                pipeline = name,
                "the files have the version of generation {}, which was rolled back ({cause}), and the one before cannot be \
                 started ({why}): it is tried again",
                gone.number
            );
            history.next(&name)
        }
    }
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
        before.transforms.push(Arc::new(loaded));
    }
    Ok(before)
}
