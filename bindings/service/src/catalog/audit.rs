//! The catalog checked against itself: what its counts and entries should be, worked out from its objects alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use super::{
    keys::Key,
    objects::{Attachment, Backup, Intent, Op, Snapshot, Volume},
    records::{Kind, Record},
    settings::{Message, QosSpec, Transfer, VolumeType},
    tx::Tx,
};
use crate::{
    domain::{Claim, Count},
    fault::Answer,
};

/// What is wrong, one sentence each; nothing when all is well.
pub(crate) fn audit(tx: &Tx<'_>) -> Answer<Vec<String>> {
    let mut problems = Vec::new();
    let expected = expected_counts(tx)?;
    let counts = tx.counts()?;
    let keys: BTreeSet<&Vec<u8>> = expected.keys().chain(counts.keys()).collect();
    for key in keys {
        let (is, should) =
            (counts.get(key).copied().unwrap_or_default(), expected.get(key).copied().unwrap_or_default());
        if is != should {
            let name = String::from_utf8_lossy(key).replace('\0', " ");
            problems.push(format!("count {name}is {is:?}, should be {should:?}"));
        }
    }
    let mut entries = BTreeMap::new();
    gather::<Volume>(tx, &mut entries)?;
    gather::<Snapshot>(tx, &mut entries)?;
    gather::<Backup>(tx, &mut entries)?;
    gather::<Attachment>(tx, &mut entries)?;
    gather::<VolumeType>(tx, &mut entries)?;
    gather::<QosSpec>(tx, &mut entries)?;
    gather::<Transfer>(tx, &mut entries)?;
    gather::<Message>(tx, &mut entries)?;
    for space in ["x", "n"] {
        tx.scan(&Key::new(space).bytes(), None, |key, value| {
            if entries.remove(key).as_deref() != Some(value) {
                problems.push(format!("entry {} leads to nothing that has it", String::from_utf8_lossy(key)));
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    problems.extend(entries.keys().map(|key| format!("entry {} is missing", String::from_utf8_lossy(key))));
    Ok(problems)
}

fn gather<R: Record>(tx: &Tx<'_>, entries: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Answer<()> {
    for object in tx.all::<R>()? {
        for entry in object.entries() {
            drop(entries.insert(entry, object.id().as_bytes().to_vec()));
        }
    }
    Ok(())
}

/// Counts as the objects and what is under way say.
fn expected_counts(tx: &Tx<'_>) -> Answer<BTreeMap<Vec<u8>, Count>> {
    let mut counts: BTreeMap<Vec<u8>, Count> = BTreeMap::new();
    let mut add = |project: &str, claim: &Claim, reserved: bool| {
        for (key, amount) in claim.parts() {
            let count = counts.entry(Tx::count_name(project, &key)).or_default();
            match reserved {
                true => count.reserved += amount,
                false => count.in_use += amount,
            }
        }
    };
    let mut coming: BTreeSet<String> = BTreeSet::new();
    for intent in tx.all::<Intent>()? {
        add(&intent.project, &intent.reserved, true);
        match &intent.op {
            Op::CreateVolume { .. } | Op::CreateSnapshot | Op::CreateBackup { .. } => {
                let _new = coming.insert(intent.key);
            }
            // A volume that was made for it.
            Op::RestoreBackup { volume } if !intent.reserved.is_none() => {
                let _new = coming.insert(Intent::key(Volume::KIND, volume));
            }
            _ => {}
        }
    }
    let is_there = |kind: Kind, id: &str| !coming.contains(&Intent::key(kind, id));
    for volume in tx.all::<Volume>()?.iter().filter(|v| is_there(Volume::KIND, &v.id)) {
        add(&volume.project, &Claim::volume(&volume.type_id, volume.size), false);
    }
    for snapshot in tx.all::<Snapshot>()?.iter().filter(|s| is_there(Snapshot::KIND, &s.id)) {
        add(&snapshot.project, &Claim::snapshot(&snapshot.type_id, snapshot.size), false);
    }
    for backup in tx.all::<Backup>()?.iter().filter(|b| is_there(Backup::KIND, &b.id)) {
        add(&backup.project, &Claim::backup(backup.size), false);
    }
    counts.retain(|_, count| *count != Count::default());
    Ok(counts)
}
