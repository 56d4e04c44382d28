//! The catalog checked against itself: what its counts and entries should be, worked out from its objects alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use super::{
    events::Event,
    groups::{Group, GroupSnapshot, GroupType},
    images::Image,
    keys::Key,
    meters::{Holding, Meter, OpenMeter},
    objects::{Attachment, Backup, Intent, Op, Snapshot, Volume},
    people::{AppCredential, Grant, Project, Token, TotpKey, User},
    records::{Kind, Record},
    settings::{DefaultType, Message, QosSpec, Transfer, VolumeType},
    tx::Tx,
};
use crate::{
    domain::{Claim, Count},
    fault::Answer,
};

/// What is wrong, one sentence each; nothing when all is well. Events and metering records are looked at only with `history`: there may be
/// a million of them.
pub(crate) fn audit(tx: &Tx<'_>, history: bool) -> Answer<Vec<String>> {
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
    gather::<DefaultType>(tx, &mut entries)?;
    gather::<QosSpec>(tx, &mut entries)?;
    gather::<Transfer>(tx, &mut entries)?;
    gather::<Message>(tx, &mut entries)?;
    gather::<GroupType>(tx, &mut entries)?;
    gather::<Group>(tx, &mut entries)?;
    gather::<GroupSnapshot>(tx, &mut entries)?;
    gather::<Image>(tx, &mut entries)?;
    let past =
        [Event::KIND.tag, "event-task", "event-series", Meter::KIND.tag].map(|tag| Key::new("x").with(tag).bytes());
    if history {
        gather::<Event>(tx, &mut entries)?;
        gather::<Meter>(tx, &mut entries)?;
        problems.extend(tx.check_events()?);
        problems.extend(tx.check_numbers::<Meter>()?);
    }
    gather::<User>(tx, &mut entries)?;
    gather::<Project>(tx, &mut entries)?;
    gather::<Grant>(tx, &mut entries)?;
    gather::<AppCredential>(tx, &mut entries)?;
    gather::<TotpKey>(tx, &mut entries)?;
    gather::<Token>(tx, &mut entries)?;
    for space in ["x", "n"] {
        tx.scan(&Key::new(space).bytes(), None, |key, value| {
            if !history && past.iter().any(|past| key.starts_with(past)) {
                return Ok(ControlFlow::Continue(()));
            }
            if entries.remove(key).as_deref() != Some(value) {
                problems.push(format!("entry {} leads to nothing that has it", String::from_utf8_lossy(key)));
            }
            Ok(ControlFlow::Continue(()))
        })?;
    }
    check_defaults(tx, &mut problems)?;
    check_meters(tx, &mut problems)?;
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

/// What is the default of a project is there.
fn check_defaults(tx: &Tx<'_>, problems: &mut Vec<String>) -> Answer<()> {
    for default in tx.all::<DefaultType>()? {
        if tx.get::<VolumeType>(&default.type_id)?.is_none() {
            problems.push(format!("{default:?} names a type that is not there"));
        }
    }
    Ok(())
}

/// Each object that holds space has one open interval, of its size and project.
fn check_meters(tx: &Tx<'_>, problems: &mut Vec<String>) -> Answer<()> {
    let mut held: BTreeMap<String, Holding> = BTreeMap::new();
    let all = tx.all::<Volume>()?.iter().filter_map(Record::holding).collect::<Vec<_>>().into_iter();
    let all = all.chain(tx.all::<Snapshot>()?.iter().filter_map(Record::holding).collect::<Vec<_>>());
    let all = all.chain(tx.all::<Image>()?.iter().filter_map(Record::holding).collect::<Vec<_>>());
    for holding in all.chain(tx.all::<Backup>()?.iter().filter_map(Record::holding).collect::<Vec<_>>()) {
        drop(held.insert(holding.key(), holding));
    }
    for open in tx.all::<OpenMeter>()? {
        match held.remove(&open.key) {
            Some(holding) if holding.project == open.project && holding.gib == open.gib => {}
            other => problems.push(format!("the open interval {open:?} is not that of {other:?}")),
        }
    }
    problems.extend(held.keys().map(|key| format!("{key} has no open interval")));
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
            Op::CreateGroup { members } => {
                let _new = coming.insert(intent.key);
                coming.extend(members.iter().map(|(id, _)| Intent::key(Volume::KIND, id)));
            }
            Op::CreateGroupSnapshot { snapshots } => {
                coming.extend(snapshots.iter().map(|id| Intent::key(Snapshot::KIND, id)));
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
    for group in tx.all::<Group>()?.iter().filter(|group| is_there(Group::KIND, &group.id)) {
        add(&group.project, &Claim::group(), false);
    }
    for image in tx.all::<Image>()? {
        add(&image.project, &Claim::image(image.gib()), false);
    }
    counts.retain(|_, count| *count != Count::default());
    Ok(counts)
}
