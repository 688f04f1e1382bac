//! Every value a writer could produce comes back.

use proptest::prelude::*;

use super::strategy;
use crate::format::manifest::Manifest;
use crate::format::page::Page;
use crate::format::snapshot::Snapshot;

proptest! {
    #[test]
    fn every_manifest_comes_back(value in strategy::manifest()) {
        prop_assert_eq!(Manifest::decode(&value.encode().unwrap()), Ok(value));
    }

    #[test]
    fn every_page_comes_back(value in strategy::page()) {
        prop_assert_eq!(Page::decode(&value.encode().unwrap()), Ok(value));
    }

    #[test]
    fn every_snapshot_comes_back(value in strategy::snapshot()) {
        prop_assert_eq!(Snapshot::decode(&value.encode().unwrap()), Ok(value));
    }
}
