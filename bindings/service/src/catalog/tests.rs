//! The catalog alone: pages, indices, counts, transactions, several at once.

use super::*;
use crate::domain::{Claim, QuotaKey, Resource, VolumeStatus, new_id};
use std::collections::BTreeMap;

fn catalog() -> (Catalog, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Catalog::open(&directory.path().join("catalog")).unwrap(), directory)
}

fn volume(project: &str, n: u64) -> Volume {
    Volume {
        id: new_id(),
        project: project.to_owned(),
        user: "u".to_owned(),
        name: Some(format!("v{n}")),
        description: None,
        metadata: BTreeMap::new(),
        size: 1 + n % 3,
        status: VolumeStatus::Available,
        type_id: format!("t{}", n % 2),
        bootable: false,
        read_only: false,
        multiattach: false,
        snapshot_id: None,
        source_volid: None,
        backup_id: None,
        image: BTreeMap::new(),
        created_us: 1000 + n,
        updated_us: None,
    }
}

fn put(catalog: &Catalog, volume: &Volume) {
    let claim = Claim::volume(&volume.type_id, volume.size);
    catalog
        .write(|tx| {
            tx.reserve(&volume.project, &claim)?;
            tx.settle(&volume.project, &claim)?;
            tx.put(volume)
        })
        .unwrap();
}

fn sound(catalog: &Catalog) {
    assert_eq!(audit(&catalog.read()).unwrap(), Vec::<String>::new());
}

fn paging(project: Option<&str>) -> Paging<'_, Volume> {
    Paging { project, limit: 1000, offset: 0, marker: None, order: None, count: false }
}

fn names(page: &Page<Volume>) -> Vec<&str> {
    page.items.iter().map(|v| v.name.as_deref().unwrap()).collect()
}

#[test]
fn pages_are_newest_first_and_go_on_at_their_markers() {
    let (catalog, _directory) = catalog();
    let all: Vec<Volume> = (0..7).map(|n| volume(if n == 3 { "other" } else { "p" }, n)).collect();
    all.iter().for_each(|v| put(&catalog, v));
    let tx = catalog.read();
    assert_eq!(names(&tx.page(&paging(Some("p")), |_| true).unwrap()), ["v6", "v5", "v4", "v2", "v1", "v0"]);
    assert_eq!(names(&tx.page(&paging(None), |_| true).unwrap()).len(), 7);
    let first = tx.page(&Paging { limit: 2, count: true, ..paging(Some("p")) }, |_| true).unwrap();
    assert_eq!((names(&first), first.more, first.total), (vec!["v6", "v5"], true, Some(6)));
    let marker = first.items[1].id.clone();
    let next = tx.page(&Paging { limit: 4, marker: Some(&marker), ..paging(Some("p")) }, |_| true).unwrap();
    assert_eq!((names(&next), next.more), (vec!["v4", "v2", "v1", "v0"], false));
    let some = tx.page(&Paging { limit: 1, offset: 1, ..paging(None) }, |v: &Volume| v.size == 1).unwrap();
    assert_eq!((names(&some), some.more), (vec!["v3"], true));
    let by_size = |a: &Volume, b: &Volume| a.size.cmp(&b.size).then(a.created_us.cmp(&b.created_us));
    let order = Paging { limit: 3, order: Some(&by_size), count: true, ..paging(None) };
    let sorted = tx.page(&order, |_| true).unwrap();
    assert_eq!((names(&sorted), sorted.more, sorted.total), (vec!["v0", "v3", "v6"], true, Some(7)));
    let marker = sorted.items[2].id.clone();
    let rest = tx.page(&Paging { marker: Some(&marker), ..order }, |_| true).unwrap();
    assert_eq!(names(&rest), ["v1", "v4", "v2"]);
    assert!(tx.page(&Paging { marker: Some("nobody"), ..paging(None) }, |_: &Volume| true).is_err());
    sound(&catalog);
}

#[test]
fn entries_follow_their_objects() {
    let (catalog, _directory) = catalog();
    let mut one = volume("p", 1);
    put(&catalog, &one);
    one.type_id = "t9".to_owned();
    catalog
        .write(|tx| {
            tx.put(&one)?;
            // Seen within the transaction.
            assert_eq!(tx.ids(&Volume::of_type("t9"))?, [one.id.clone()]);
            assert!(!tx.any(&Volume::of_type("t1"))?);
            let (old, new) = (Claim::volume("t1", one.size), Claim::volume("t9", one.size));
            tx.release("p", &old)?;
            tx.reserve("p", &new)?;
            tx.settle("p", &new)
        })
        .unwrap();
    sound(&catalog);
    assert_eq!(catalog.read().found::<Volume>(&Volume::of_type("t9")).unwrap(), [one.clone()]);
    catalog
        .write(|tx| {
            tx.remove::<Volume>(&one.id)?;
            assert!(!tx.any(&Volume::of_type("t9"))? && tx.get::<Volume>(&one.id)?.is_none());
            tx.release("p", &Claim::volume("t9", one.size))
        })
        .unwrap();
    sound(&catalog);
}

#[test]
fn the_audit_finds_what_is_wrong() {
    let (catalog, _directory) = catalog();
    put(&catalog, &volume("p", 1));
    catalog.write(|tx| tx.release("p", &Claim::growth("t1", 1))).unwrap();
    let problems = audit(&catalog.read()).unwrap();
    assert_eq!(problems.len(), 2, "of the project and of the type: {problems:?}");
    catalog.inner.db.put(b"x\0volume\0p\0ghost", b"nobody").unwrap();
    assert_eq!(audit(&catalog.read()).unwrap().len(), 3);
}

#[test]
fn a_transaction_that_fails_leaves_nothing() {
    let (catalog, _directory) = catalog();
    let one = volume("p", 1);
    let failed = catalog.write(|tx| {
        tx.put(&one)?;
        tx.reserve("p", &Claim::volume("t1", 1))?;
        Err::<(), _>(Fault::bad("no"))
    });
    assert!(failed.is_err());
    assert!(catalog.read().get::<Volume>(&one.id).unwrap().is_none());
    assert_eq!(catalog.read().count("p", &QuotaKey::of(Resource::Volumes)).unwrap(), crate::domain::Count::default());
    sound(&catalog);
}

#[test]
fn what_is_written_is_there_after_opening_again_and_newer_formats_are_refused() {
    let (catalog, directory) = catalog();
    let one = volume("p", 1);
    put(&catalog, &one);
    drop(catalog);
    let path = directory.path().join("catalog");
    let catalog = Catalog::open(&path).unwrap();
    assert_eq!(catalog.read().require::<Volume>(&one.id).unwrap(), one);
    sound(&catalog);
    catalog.inner.db.put(FORMAT_KEY, b"2").unwrap();
    drop(catalog);
    assert!(Catalog::open(&path).map(drop).unwrap_err().message.contains("newer version"));
}

#[test]
fn quotas_are_never_overcommitted_by_requests_that_come_together() {
    let (catalog, _directory) = catalog();
    catalog.write(|tx| tx.set_limits(Some("p"), &[(QuotaKey::of(Resource::Volumes), 7)])).unwrap();
    let taken: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let catalog = catalog.clone();
                scope.spawn(move || {
                    let claim = Claim::volume("t", 1);
                    (0..5).filter(|_| catalog.write(|tx| tx.reserve("p", &claim)).is_ok()).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(taken, 7);
    assert_eq!(catalog.read().count("p", &QuotaKey::of(Resource::Volumes)).unwrap().reserved, 7);
    let over = catalog.write(|tx| tx.reserve("p", &Claim::volume("t", 1))).unwrap_err();
    assert_eq!(over.kind, FaultKind::OverLimit);
}

#[test]
fn limits_of_a_project_stand_before_those_of_all_and_types_have_their_own() {
    let (catalog, _directory) = catalog();
    let volumes = QuotaKey::of(Resource::Volumes);
    let of_type = QuotaKey { resource: Resource::Gigabytes, volume_type: Some("gold".to_owned()) };
    assert_eq!(catalog.read().limit("p", &volumes).unwrap(), 10);
    assert_eq!(catalog.read().limit("p", &of_type).unwrap(), -1);
    catalog.write(|tx| tx.set_limits(None, &[(volumes.clone(), 20)])).unwrap();
    catalog.write(|tx| tx.set_limits(Some("p"), &[(of_type.clone(), 5)])).unwrap();
    assert_eq!(catalog.read().limit("p", &volumes).unwrap(), 20);
    assert!(catalog.write(|tx| tx.reserve("p", &Claim::volume("gold", 6))).is_err());
    assert!(catalog.write(|tx| tx.reserve("p", &Claim::volume("iron", 6))).is_ok());
    assert!(catalog.write(|tx| tx.reserve("q", &Claim::volume("gold", 6))).is_ok());
    catalog.write(|tx| tx.clear_limits("p")).unwrap();
    assert_eq!(catalog.read().limit("p", &of_type).unwrap(), -1);
    catalog.write(|tx| tx.set_limits(Some("p"), &[(QuotaKey::of(Resource::PerVolumeGigabytes), 3)])).unwrap();
    assert!(catalog.read().check_volume_size("p", 3).is_ok() && catalog.read().check_volume_size("p", 4).is_err());
    // Handing over asks the other project's quota.
    catalog.write(|tx| tx.set_limits(Some("r"), &[(volumes.clone(), 0)])).unwrap();
    let claim = Claim::volume("iron", 6);
    catalog.write(|tx| tx.settle("p", &claim)).unwrap();
    assert!(catalog.write(|tx| tx.hand_over("p", "r", &claim)).is_err());
    catalog.write(|tx| tx.hand_over("p", "s", &claim)).unwrap();
    assert_eq!(catalog.read().count("s", &volumes).unwrap().in_use, 1);
    assert_eq!(catalog.read().count("p", &volumes).unwrap(), crate::domain::Count::default());
    assert!(catalog.write(|tx| tx.release("p", &claim)).is_err(), "counts never go below zero");
}
