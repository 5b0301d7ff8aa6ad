//! Keeps what came out of a substitution from showing where others speak: a plugin that repeats its configuration, say.

use std::fmt;

/// Bytes of a value from which it is masked: shorter ones are words and numbers that stand everywhere.
const MASKED_MIN: usize = 6;

/// The values that must not show.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Mask(Vec<String>);

impl Mask {
    /// A mask of these values.
    #[must_use]
    pub fn of<'v>(values: impl IntoIterator<Item = &'v str>) -> Self {
        let mut mask = Self::default();
        values.into_iter().for_each(|value| mask.add(value));
        mask
    }

    /// Whether there is nothing to mask.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a value.
    pub(super) fn add(&mut self, value: &str) {
        for line in value.lines().map(str::trim).filter(|line| line.len() >= MASKED_MIN) {
            // A plugin gets its configuration as JSON, and may repeat it as such.
            let quoted = serde_json::Value::from(line).to_string();
            for form in [line, &quoted[1..quoted.len() - 1]] {
                if !self.0.iter().any(|known| known == form) {
                    self.0.push(form.to_owned());
                }
            }
        }
        // The longest first, so that a part of a value does not hide the rest of it.
        self.0.sort_by_key(|known| std::cmp::Reverse(known.len()));
    }

    /// What either masks.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let mut both = self.clone();
        both.0.extend(other.0.iter().filter(|value| !self.0.contains(value)).cloned());
        both.0.sort_by_key(|known| std::cmp::Reverse(known.len()));
        both
    }

    /// The text, with `***` in the place of every such value.
    #[must_use]
    pub fn apply(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, value| text.replace(value.as_str(), "***"))
    }
}

impl fmt::Debug for Mask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} masked>", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_long_values_wherever_they_stand() {
        let mut mask = Mask::default();
        for value in ["hunter2", "hunter2-and-more", "19", "-----BEGIN-----\nabcdefgh\n"] {
            mask.add(value);
        }
        assert_eq!(mask.apply("key hunter2-and-more, hunter2, 19, abcdefgh"), "key ***, ***, 19, ***");
        assert_eq!(format!("{mask:?}"), "<4 masked>");
    }

    #[test]
    fn two_masks_hide_what_either_hides() {
        let both = Mask::of(["hunter2"]).and(&Mask::of(["hunter2-and-more", "hunter2"]));
        assert_eq!(both.apply("hunter2-and-more, hunter2"), "***, ***");
        assert_eq!(format!("{both:?}"), "<2 masked>");
    }

    #[test]
    fn masks_a_value_as_it_stands_in_json_too() {
        let value = r#"a"quote\and"#;
        let json = serde_json::json!({ "token": value }).to_string();
        assert_eq!(Mask::of([value]).apply(&json), r#"{"token":"***"}"#);
        assert_eq!(Mask::of([value]).apply(value), "***");
    }
}
