//! The sheets of a pool: what was set to limit its volumes, groups and itself. Entries of the version table beside the versions, numbered
//! like them.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::{Lineage, table};
use crate::{
    format::sheet::{Owner, Sheet},
    units::VersionId,
};

#[derive(Default)]
pub(crate) struct Sheets {
    sheets: FxHashMap<VersionId, Sheet>,
    by_owner: BTreeMap<Owner, VersionId>,
}

impl Lineage {
    /// What was set for an owner, with its number in the table.
    pub(crate) fn sheet(&self, owner: &Owner) -> Option<(VersionId, &Sheet)> {
        let id = *self.sheets.by_owner.get(owner)?;
        self.sheets.sheets.get(&id).map(|sheet| (id, sheet))
    }

    /// All sheets, in the order of their owners.
    pub(crate) fn sheets(&self) -> impl Iterator<Item = &Sheet> {
        self.sheets.by_owner.values().filter_map(|id| self.sheets.sheets.get(id))
    }

    /// The sheet of an entry of the table, if that is one.
    pub(crate) fn sheet_at(&self, entry: VersionId) -> Option<&Sheet> {
        self.sheets.sheets.get(&entry)
    }

    /// Puts a sheet in the place of its owner's last one; one that says nothing goes.
    pub(crate) fn set_sheet(&mut self, entry: VersionId, sheet: Sheet) {
        self.next_version = self.next_version.max(entry.0.saturating_add(1));
        let old = self.sheets.by_owner.get(&sheet.owner).copied();
        if let Some(old) = old.filter(|old| *old != entry || sheet.is_empty()) {
            self.remove_sheet(old);
        }
        // A number has one owner; a journal that says otherwise is no reason to lose count.
        if self.sheets.sheets.get(&entry).is_some_and(|old| old.owner != sheet.owner) {
            self.remove_sheet(entry);
        }
        if sheet.is_empty() || self.versions.contains_key(&entry) {
            return;
        }
        let length = table::sheet_len(&sheet);
        match self.sheets.sheets.get(&entry) {
            Some(old) => self.layout.resize(entry, table::sheet_len(old), length),
            None => self.layout.place(entry, length),
        }
        self.index_sheet(entry, sheet);
    }

    /// Adds a sheet as read from page `page` of the table.
    pub(crate) fn load_sheet(&mut self, entry: VersionId, sheet: Sheet, page: u32) {
        self.layout.load(entry, table::sheet_len(&sheet), page);
        self.index_sheet(entry, sheet);
    }

    fn index_sheet(&mut self, entry: VersionId, sheet: Sheet) {
        let _old = self.sheets.by_owner.insert(sheet.owner.clone(), entry);
        let _old = self.sheets.sheets.insert(entry, sheet);
    }

    pub(crate) fn remove_sheet(&mut self, entry: VersionId) {
        if let Some(sheet) = self.sheets.sheets.remove(&entry) {
            self.layout.remove(entry, table::sheet_len(&sheet));
            let _id = self.sheets.by_owner.remove(&sheet.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Epoch, VolumeId};

    fn sheet(limits: &str) -> Sheet {
        let mut sheet = Sheet::new(Owner::Volume(VolumeId(3)));
        sheet.limits = limits.parse().unwrap();
        sheet
    }

    #[test]
    fn an_owner_has_one_sheet_and_an_empty_one_goes() {
        let mut lineage = Lineage::new(Epoch(1), 1, 1, 1);
        lineage.set_sheet(VersionId(7), sheet("total_iops_sec=5"));
        assert_eq!(lineage.next_version, 8);
        let (_changed, page) = (lineage.layout.take_changed(), lineage.layout.ids(0).to_vec());
        assert_eq!(page, [VersionId(7)]);
        lineage.set_sheet(VersionId(7), sheet("total_iops_sec=5 total_iops_sec_max=9"));
        assert_eq!(lineage.layout.take_changed().len(), 1);
        lineage.set_sheet(VersionId(9), sheet("weight=2"));
        assert_eq!(lineage.layout.ids(0), [VersionId(9)]);
        assert_eq!(lineage.sheet(&Owner::Volume(VolumeId(3))).unwrap().1.limits.weight(), 2);
        lineage.set_sheet(VersionId(9), sheet(""));
        assert!(lineage.sheets().next().is_none() && lineage.sheet_at(VersionId(9)).is_none());
        assert!(lineage.layout.ids(0).is_empty());
        lineage.set_sheet(VersionId(10), sheet(""));
        assert_eq!(lineage.layout.pages(), 1);
    }
}
