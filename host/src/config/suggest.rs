//! "Did you mean …?"

/// The candidate that was probably meant, if one is near.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let plain = normal(word);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let other = normal(candidate);
        let distance = strsim::damerau_levenshtein(&plain, &other);
        let reach = 1 + plain.chars().count().min(other.chars().count()) / 3;
        // `topic` for `topics`, `dlq_topic` for `topic`: one holds the other whole.
        let holds = plain.len() >= 4 && other.len() >= 4 && (plain.contains(&other) || other.contains(&plain));
        let distance = if holds { distance.min(2) } else { distance };
        let is_near = distance <= reach || holds;
        if is_near && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Case and separators do not make a word another one.
fn normal(word: &str) -> String {
    word.chars().filter(|c| !matches!(c, '_' | '-' | '.' | ' ')).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_what_was_meant_and_nothing_else() {
        let keys = ["source", "steps", "outputs", "dead_letters", "batch", "errors"];
        assert_eq!(nearest("step", keys), Some("steps"));
        assert_eq!(nearest("deadLetters", keys), Some("dead_letters"));
        assert_eq!(nearest("dead-letter", keys), Some("dead_letters"));
        assert_eq!(nearest("ouptuts", keys), Some("outputs"));
        assert_eq!(nearest("schedule", keys), None);
    }
}
