//! The pages of a manifest in memory: where the log of each partition starts.
//!
//! A partition stays on the page where it was first noted, so that a change touches one page. A log start only ever
//! moves forward; a page that says less of any partition than the manifest's own pages do can therefore never be named
//! again, which is how a sweep tells garbage from an upload whose commit is under way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::FormatError;
use crate::format::codec::hash128;
use crate::format::manifest::PageRef;
use crate::format::page::{Page, PagePartition};
use crate::limits::PAGE_PARTITIONS;
use crate::model::{Offset, TopicPartition};

/// The pages that one manifest names.
#[derive(Debug, Clone, Default)]
pub struct Pages {
    by_index: BTreeMap<u16, NamedPage>,
}

#[derive(Debug, Clone, Default)]
struct NamedPage {
    hash: u128,
    page: Arc<Page>,
}

/// A page that is to be stored before a manifest may name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewPage {
    pub(crate) hash: u128,
    pub(crate) body: Bytes,
}

impl Pages {
    /// Returns a page, if it is the one referred to.
    pub(crate) fn get(&self, reference: &PageRef) -> Option<Arc<Page>> {
        let named = self.by_index.get(&reference.index).filter(|named| named.hash == reference.hash)?;
        Some(Arc::clone(&named.page))
    }

    /// Adds a page.
    pub(crate) fn insert(&mut self, reference: PageRef, page: Arc<Page>) {
        self.by_index.insert(reference.index, NamedPage { hash: reference.hash, page });
    }

    /// Returns how a manifest names these pages.
    pub fn references(&self) -> Vec<PageRef> {
        self.by_index.iter().map(|(index, named)| PageRef { index: *index, hash: named.hash }).collect()
    }

    /// Returns every partition that is noted on a page.
    pub fn partitions(&self) -> impl Iterator<Item = &PagePartition> {
        self.by_index.values().flat_map(|named| &named.page.partitions)
    }

    /// Returns the log start of a partition; 0 where no page says another.
    pub fn log_start(&self, partition: TopicPartition) -> Offset {
        let noted = self.by_index.values().find_map(|named| named.page.partition(partition));
        noted.map_or(Offset::ZERO, |noted| noted.log_start)
    }

    /// Returns these pages with log starts moved forward, and those of them that are new. A start at or below the one
    /// there is changes nothing.
    ///
    /// # Errors
    /// [`FormatError::TooLarge`] when a page would not fit. A retry does not help.
    pub(crate) fn with_log_starts(
        &self,
        starts: &[(TopicPartition, Offset)],
    ) -> Result<(Self, Vec<NewPage>), FormatError> {
        let mut next = self.clone();
        let mut changed = BTreeSet::new();
        for (partition, start) in starts {
            if *start > next.log_start(*partition) {
                changed.insert(next.set_log_start(*partition, *start));
            }
        }
        let mut new = Vec::with_capacity(changed.len());
        for (_, named) in next.by_index.iter_mut().filter(|(index, _)| changed.contains(index)) {
            let body = named.page.encode()?;
            named.hash = hash128(&body);
            new.push(NewPage { hash: named.hash, body });
        }
        Ok((next, new))
    }

    /// Notes a log start and returns the index of the page it is on.
    fn set_log_start(&mut self, partition: TopicPartition, log_start: Offset) -> u16 {
        let holds = |(index, named): (&u16, &NamedPage)| named.page.partition(partition).map(|_| *index);
        let index = self.by_index.iter().find_map(holds).unwrap_or_else(|| self.index_with_room());
        let page = Arc::make_mut(&mut self.by_index.entry(index).or_default().page);
        match page.partitions.binary_search_by_key(&partition, |noted| noted.partition) {
            Ok(at) => page.partitions[at].log_start = log_start,
            Err(at) => {
                page.partitions.insert(at, PagePartition { partition, log_start, segments: Vec::new() })
            }
        }
        index
    }

    fn index_with_room(&self) -> u16 {
        let is_full = |named: &NamedPage| named.page.partitions.len() >= usize::from(PAGE_PARTITIONS);
        (0..=u16::MAX)
            .find(|index| !self.by_index.get(index).is_some_and(is_full))
            .expect("a manifest has room for far fewer pages than there are indexes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PartitionId, TopicId};

    fn partition(topic: u128, number: u16) -> TopicPartition {
        TopicPartition { topic: TopicId::new(topic), partition: PartitionId::new(number) }
    }

    fn moved(pages: &Pages, starts: &[(TopicPartition, u64)]) -> (Pages, usize) {
        let starts: Vec<_> =
            starts.iter().map(|(partition, start)| (*partition, Offset::new(*start))).collect();
        let (pages, new) = pages.with_log_starts(&starts).unwrap();
        (pages, new.len())
    }

    #[test]
    fn a_log_start_only_moves_forward() {
        let (one, two) = (partition(1, 0), partition(1, 1));
        let (pages, new) = moved(&Pages::default(), &[(one, 5), (two, 0)]);
        assert_eq!((new, pages.log_start(one).get(), pages.partitions().count()), (1, 5, 1));
        let (same, new) = moved(&pages, &[(one, 5), (one, 4), (two, 0)]);
        assert_eq!((new, same.references()), (0, pages.references()));
        let (further, _) = moved(&pages, &[(one, 6), (one, 3), (one, 9)]);
        assert_eq!(further.log_start(one), Offset::new(9), "the furthest of several");
        assert_eq!(further.log_start(two), Offset::ZERO);
    }

    #[test]
    fn a_change_touches_the_page_of_its_partition_alone() {
        let many: Vec<_> = (0..600).map(|n| (partition(7, n), 1)).collect();
        let (pages, new) = moved(&Pages::default(), &many);
        assert_eq!((new, pages.references().len()), (3, 3));
        assert_eq!(pages.partitions().count(), 600);
        let (changed, new) = moved(&pages, &[(partition(7, 300), 2), (partition(8, 0), 3)]);
        let differing =
            pages.references().iter().zip(changed.references()).filter(|(a, b)| **a != *b).count();
        assert_eq!((new, differing), (2, 2), "the page of the one, and the one with room for the other");
        assert_eq!(changed.log_start(partition(7, 299)), Offset::new(1));
    }

    #[test]
    fn pages_are_found_again_by_what_a_manifest_says() {
        let (pages, _) = moved(&Pages::default(), &[(partition(1, 0), 5)]);
        let reference = pages.references()[0];
        let page = pages.get(&reference).unwrap();
        assert_eq!(hash128(&page.encode().unwrap()), reference.hash);
        assert!(pages.get(&PageRef { hash: 1, ..reference }).is_none());
        let mut read = Pages::default();
        read.insert(reference, page);
        assert_eq!(read.log_start(partition(1, 0)), Offset::new(5));
    }
}
