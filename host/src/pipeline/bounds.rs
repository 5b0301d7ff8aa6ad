//! Places in topics, as people write them: `3:1000`, `shop.orders/3:1000`, `2026-01-01T00:00:00Z`, `2 h ago`, `earliest`,
//! `latest`.
//!
//! In: text. Out: a [`Bound`], and with the help of [`Ranges`] an offset. Pure but for that question.

use std::collections::{BTreeMap, BTreeSet};

use super::SourceError;
use super::ranges::{Extent, Ranges};
use crate::config;
use crate::record::{Offset, TopicPartition};

/// What a bound may look like, for whoever has written something else.
pub const BOUND_FORMS: &str = "PARTITION:OFFSET, TOPIC/PARTITION:OFFSET, a time (2026-01-01T00:00:00Z), a time ago (2 h \
                               ago), earliest or latest";

/// A place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// An offset of one partition.
    Offset {
        /// None where the pipeline reads one topic.
        topic: Option<String>,
        /// Its number.
        partition: i32,
        /// The offset.
        offset: i64,
    },
    /// The first record at or after a time, in each partition; milliseconds since the Unix epoch.
    Time(i64),
    /// The first record that is there.
    Earliest,
    /// The end.
    Latest,
}

/// Bounds that lead nowhere.
#[derive(Debug, thiserror::Error)]
pub enum BoundsError {
    /// The words are wrong.
    #[error("{0}")]
    Words(String),
    /// The source does not tell.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl Bound {
    /// Reads a bound. `now_ms` is the wall.
    ///
    /// # Errors
    /// Where it is none, in words for people.
    pub fn parse(text: &str, now_ms: i64) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no place in a topic: write {BOUND_FORMS}");
        let text = text.trim();
        match text {
            "earliest" => return Ok(Self::Earliest),
            "latest" => return Ok(Self::Latest),
            _ => {}
        }
        if let Some(ago) = text.strip_suffix("ago") {
            let ago = config::duration(ago.trim()).ok_or_else(wrong)?;
            let ago_ms = i64::try_from(ago.as_millis()).map_err(|_| wrong())?;
            return Ok(Self::Time(now_ms.saturating_sub(ago_ms).max(0)));
        }
        if let Some(time_ms) = config::time_ms(text) {
            return Ok(Self::Time(time_ms));
        }
        let (place, offset) = text.rsplit_once(':').ok_or_else(wrong)?;
        let offset = offset.parse::<i64>().ok().filter(|offset| *offset >= 0).ok_or_else(wrong)?;
        let (topic, partition) = match place.rsplit_once('/') {
            Some((topic, partition)) => (Some(topic.to_owned()), partition),
            None => (None, place),
        };
        let partition = partition.parse::<i32>().ok().filter(|number| *number >= 0).ok_or_else(wrong)?;
        Ok(Self::Offset { topic, partition, offset })
    }

    /// The partition that it names, of these topics.
    fn partition(&self, topics: &[String]) -> Result<Option<TopicPartition>, BoundsError> {
        let Self::Offset { topic, partition, .. } = self else { return Ok(None) };
        let topic = match (topic, topics) {
            (Some(topic), _) if topics.contains(topic) => topic,
            (Some(topic), _) => {
                return Err(BoundsError::Words(format!(
                    "the pipeline does not read `{topic}`: it reads {}",
                    topics.join(", ")
                )));
            }
            (None, [only]) => only,
            (None, _) => {
                let several = topics.join(", ");
                return Err(BoundsError::Words(format!("the pipeline reads {several}: write TOPIC/PARTITION:OFFSET")));
            }
        };
        Ok(Some(TopicPartition::new(topic, *partition)))
    }

    /// The offset that it means in a partition.
    ///
    /// # Errors
    /// Where the source does not tell.
    pub async fn offset(
        &self,
        ranges: &dyn Ranges,
        partition: &TopicPartition,
        extent: &Extent,
    ) -> Result<Offset, SourceError> {
        Ok(match self {
            Self::Offset { offset, .. } => Offset(*offset),
            Self::Earliest => extent.low,
            Self::Latest => extent.end,
            Self::Time(ms) => ranges.first_at(partition, *ms).await?.unwrap_or(extent.end),
        })
    }
}

/// The range between two bounds of a partition, by their offsets, and where it was meant to end if the partition ends
/// before that.
///
/// # Errors
/// Where there is no such range, in words for people.
pub fn range(
    partition: &TopicPartition,
    (from, to): (&Bound, &Bound),
    (begin, until): (Offset, Offset),
    extent: &Extent,
) -> Result<((Offset, Offset), Option<Offset>), String> {
    let Extent { low, end, .. } = extent;
    if matches!(from, Bound::Offset { .. }) && begin > *end {
        return Err(format!("{partition} has no offset {begin}: it holds {low} to below {end}"));
    }
    if matches!((from, to), (Bound::Time(from), Bound::Time(to)) if to < from) {
        return Err(format!("{partition}: the range ends before it begins"));
    }
    if until < begin {
        return Err(format!("{partition}: the range begins at offset {begin} and ends before it, at {until}"));
    }
    let is_cut = matches!(to, Bound::Offset { .. }) && until > *end;
    Ok(((begin, until.min(*end)), is_cut.then_some(until)))
}

/// For each partition that is meant, its own bound: one that names it, else one that names none. Where any bound names a
/// partition, only those that are named are meant.
///
/// # Errors
/// Where a partition is named that is not there, twice, or the bounds contradict each other.
pub async fn by_partition(
    ranges: &dyn Ranges,
    topics: &[String],
    bounds: &[Bound],
) -> Result<BTreeMap<TopicPartition, Bound>, BoundsError> {
    let words = |text: String| Err(BoundsError::Words(text));
    let mut all = BTreeSet::new();
    for topic in topics {
        all.extend(ranges.partitions(topic).await?);
    }
    let (mut named, mut general) = (BTreeMap::new(), None);
    for bound in bounds {
        match bound.partition(topics)? {
            Some(partition) if !all.contains(&partition) => return words(format!("there is no partition {partition}")),
            Some(partition) => {
                if named.insert(partition.clone(), bound.clone()).is_some() {
                    return words(format!("{partition} is named twice"));
                }
            }
            None if general.is_some() => return words("only one bound can hold for all partitions".to_owned()),
            None => general = Some(bound.clone()),
        }
    }
    match general {
        Some(_) if !named.is_empty() => {
            words("a bound for all partitions stands beside one for a single partition: name all, or none".to_owned())
        }
        Some(general) => Ok(all.into_iter().map(|partition| (partition, general.clone())).collect()),
        None => Ok(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_is_none_is_refused_and_one_that_is_longer_than_its_partition_is_told() {
        let partition = TopicPartition::new("in", 0);
        let extent = Extent { low: Offset(2), end: Offset(9), topic_id: None, is_compacted: false };
        let offset = |offset| Bound::Offset { topic: None, partition: 0, offset };
        let of = |from: &Bound, to: &Bound, begin, until| {
            range(&partition, (from, to), (Offset(begin), Offset(until)), &extent)
        };
        let at = |from, to| of(&offset(from), &offset(to), from, to);
        assert_eq!(at(3, 5), Ok(((Offset(3), Offset(5)), None)));
        assert_eq!(at(3, 3), Ok(((Offset(3), Offset(3)), None)), "nothing is a range");
        assert_eq!(at(9, 9), Ok(((Offset(9), Offset(9)), None)), "so is what has not come yet");
        assert_eq!(at(3, 99), Ok(((Offset(3), Offset(9)), Some(Offset(99)))));
        assert!(at(99, 100).expect_err("beyond").contains("no offset 99: it holds 2 to below 9"));
        assert!(at(3, 1).expect_err("backwards").contains("begins at offset 3 and ends before it, at 1"));
        let times = |from, to, begin, until| of(&Bound::Time(from), &Bound::Time(to), begin, until);
        assert!(times(7, 5, 4, 4).expect_err("backwards").contains("ends before it begins"));
        assert_eq!(times(5, 7, 9, 9), Ok(((Offset(9), Offset(9)), None)));
        assert_eq!(of(&Bound::Earliest, &Bound::Latest, 2, 9), Ok(((Offset(2), Offset(9)), None)));
    }

    #[test]
    fn bounds_are_read_as_people_write_them() {
        let offset = |topic: Option<&str>, partition, offset| {
            Ok(Bound::Offset { topic: topic.map(str::to_owned), partition, offset })
        };
        assert_eq!(Bound::parse("3:1000", 0), offset(None, 3, 1_000));
        assert_eq!(Bound::parse("shop.orders/3:1000", 0), offset(Some("shop.orders"), 3, 1_000));
        assert_eq!(Bound::parse("2 h ago", 10_000_000), Ok(Bound::Time(2_800_000)));
        assert_eq!(Bound::parse("2h ago", 10_000_000), Ok(Bound::Time(2_800_000)));
        assert_eq!(Bound::parse("1970-01-01T00:00:01Z", 0), Ok(Bound::Time(1_000)));
        assert_eq!(Bound::parse(" latest", 0), Ok(Bound::Latest));
        for wrong in ["", "3", "3:", "x:1", "3:-1", "-1:3", "ago", "yesterday", "2 weeks ago", "2026-01-01"] {
            let error = Bound::parse(wrong, 0).expect_err(wrong);
            assert!(error.contains("PARTITION:OFFSET"), "{error}");
        }
    }
}
