//! The catalog alone: pages, indices, counts, transactions, several at once.

use super::*;
use crate::domain::{Claim, QuotaKey, Resource, VolumeStatus, new_id};
use std::collections::BTreeMap;

fn catalog() -> (Catalog, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    (Catalog::open(&directory.path().join("catalog"), Kept::default()).unwrap(), directory)
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
        group_id: None,
        qos: BTreeMap::new(),
        held: None,
        exports: Vec::new(),
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
    assert_eq!(audit(&catalog.read(), true).unwrap(), Vec::<String>::new());
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
    let problems = audit(&catalog.read(), true).unwrap();
    assert_eq!(problems.len(), 2, "of the project and of the type: {problems:?}");
    catalog.inner.db.put(b"x\0volume\0p\0ghost", b"nobody").unwrap();
    assert_eq!(audit(&catalog.read(), true).unwrap().len(), 3);
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
    let catalog = Catalog::open(&path, Kept::default()).unwrap();
    assert_eq!(catalog.read().require::<Volume>(&one.id).unwrap(), one);
    sound(&catalog);
    catalog.inner.db.put(FORMAT_KEY, b"3").unwrap();
    drop(catalog);
    assert!(Catalog::open(&path, Kept::default()).map(drop).unwrap_err().message.contains("newer version"));
}

/// The number of the one mark that there has to be.
fn marked(catalog: &Catalog) -> u64 {
    let number = marks::last(&catalog.inner.db).unwrap();
    assert_eq!(*catalog.inner.writer.lock().unwrap(), number);
    number
}

/// As a version left it that knew no marks, and nothing of format 2.
fn as_format_1(catalog: Catalog) {
    catalog.inner.db.delete(format!("s\0transaction\0{:016x}\0", marked(&catalog))).unwrap();
    catalog.inner.db.put(FORMAT_KEY, b"1").unwrap();
    drop(catalog);
}

#[test]
fn a_catalog_of_format_1_is_taken_over_and_refused_by_who_knows_no_other() {
    let (catalog, directory) = catalog();
    let one = volume("p", 1);
    put(&catalog, &one);
    as_format_1(catalog);
    let path = directory.path().join("catalog");
    for _ in 0..2 {
        let catalog = Catalog::open(&path, Kept::default()).unwrap();
        // What such a version compares with "1".
        assert_eq!(catalog.inner.db.get(FORMAT_KEY).unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!((marked(&catalog), catalog.read().require::<Volume>(&one.id).unwrap()), (1, one.clone()));
        sound(&catalog);
    }
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

fn event(project: &str, verdict: Verdict) -> Event {
    Event {
        id: String::new(),
        project: project.to_owned(),
        user: "u".to_owned(),
        request: "r".to_owned(),
        action: "volume.update".to_owned(),
        kind: "volume".to_owned(),
        object: Some("v".to_owned()),
        verdict,
        reason: None,
        task: None,
        began_us: None,
        created_us: now_us(),
    }
}

fn keeping(count: u64) -> Kept {
    Kept { events: Keep { count, age_us: u64::MAX }, ..Kept::default() }
}

/// How many events a project has of what was done, and of what was refused.
fn told(catalog: &Catalog, project: &str) -> (usize, usize) {
    let window = Window { project: Some(project), limit: 10_000, ..Window::default() };
    let events = catalog.read().window(&window, |_: &Event| true).unwrap().items;
    let done = events.iter().filter(|event| event.verdict == Verdict::Success).count();
    (done, events.len() - done)
}

#[test]
fn nobody_takes_away_the_events_of_others() {
    let directory = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(&directory.path().join("catalog"), keeping(64)).unwrap();
    let tell = |project: &str, verdict, times: usize| {
        for _ in 0..times {
            drop(catalog.write(|tx| tx.append_event(event(project, verdict))).unwrap());
        }
    };
    tell("p", Verdict::Success, 10);
    tell("p", Verdict::Refused, 2);
    tell("q", Verdict::Success, 5);
    tell("q", Verdict::Failed, 3);
    // Whoever is refused all the time loses what they were refused themselves.
    tell("r", Verdict::Refused, 500);
    assert_eq!((told(&catalog, "p"), told(&catalog, "q")), ((10, 2), (5, 3)));
    let (done, refused) = told(&catalog, "r");
    assert!(
        done == 0 && (8..=12).contains(&refused),
        "a quarter of 64, with those of the others, and some more: {refused}"
    );
    // Whoever does very much loses their own past, and that of nobody who does less.
    tell("r", Verdict::Success, 500);
    assert_eq!((told(&catalog, "p"), told(&catalog, "q")), ((10, 2), (5, 3)));
    let (done, _) = told(&catalog, "r");
    assert!((49..=53).contains(&done), "what is left of 64, and some more: {done}");
    let last = catalog.read().all::<Event>().unwrap().pop().unwrap();
    assert_eq!((last.project.as_str(), last.id.as_str()), ("r", "00000000000003fb"), "numbers go on");
    sound(&catalog);
    // Less is kept, and then nothing.
    drop(catalog);
    let catalog = Catalog::open(&directory.path().join("catalog"), keeping(16)).unwrap();
    while catalog.write(|tx| tx.expire_events(10)).unwrap() > 0 {}
    sound(&catalog);
    assert_eq!(told(&catalog, "q").0, 5, "the shortest is whole");
    assert!(catalog.read().all::<Event>().unwrap().len() <= 16 + 1 + 4);
    drop(catalog);
    let kept = Kept { events: Keep { count: 16, age_us: 0 }, ..Kept::default() };
    let catalog = Catalog::open(&directory.path().join("catalog"), kept).unwrap();
    while catalog.write(|tx| tx.expire_events(10)).unwrap() > 0 {}
    assert_eq!(catalog.read().all::<Event>().unwrap(), Vec::new());
    sound(&catalog);
}

#[test]
fn events_of_an_earlier_version_come_into_their_series() {
    let (catalog, directory) = catalog();
    for (project, verdict) in [("p", Verdict::Success), ("q", Verdict::Refused), ("p", Verdict::Success)] {
        drop(catalog.write(|tx| tx.append_event(event(project, verdict))).unwrap());
    }
    // As it was: numbers of all events together, and no series.
    let db = &catalog.inner.db;
    for pair in db.iterator(rocksdb::IteratorMode::Start) {
        let (key, _) = pair.unwrap();
        if key.windows(6).any(|part| part == b"series") || key.windows(6).any(|part| part == b"totals") {
            db.delete(key).unwrap();
        }
    }
    db.put(numbered::numbers_key(Event::KIND), b"\x01{\"first\":0,\"next\":3}").unwrap();
    assert!(!audit(&catalog.read(), true).unwrap().is_empty());
    as_format_1(catalog);
    let catalog = Catalog::open(&directory.path().join("catalog"), keeping(100)).unwrap();
    sound(&catalog);
    let next = catalog.write(|tx| tx.append_event(event("q", Verdict::Refused))).unwrap();
    assert_eq!((next.id.as_str(), told(&catalog, "p"), told(&catalog, "q")), ("0000000000000003", (2, 0), (0, 2)));
    sound(&catalog);
}

/// A version that knew no series has opened a catalog that has them, and began to count anew: over the first events.
#[test]
fn events_that_an_earlier_version_wrote_beside_series_come_into_them() {
    let (catalog, directory) = catalog();
    for (project, verdict) in [("p", Verdict::Success), ("q", Verdict::Refused), ("p", Verdict::Success)] {
        drop(catalog.write(|tx| tx.append_event(event(project, verdict))).unwrap());
    }
    let written = catalog.write(|tx| {
        let id = numbered::id_of(0);
        let before = tx.require::<Event>(&id)?.in_series();
        let after = Event { id: id.clone(), ..event("q", Verdict::Success) };
        tx.put(&after)?;
        // Such a version knows nothing of these entries.
        tx.set_raw(before, Some(id.into_bytes()));
        tx.set_raw(after.in_series(), None);
        Ok(())
    });
    written.unwrap();
    catalog.inner.db.put(numbered::numbers_key(Event::KIND), b"\x01{\"first\":0,\"next\":1}").unwrap();
    assert!(!audit(&catalog.read(), true).unwrap().is_empty());
    as_format_1(catalog);
    let catalog = Catalog::open(&directory.path().join("catalog"), keeping(100)).unwrap();
    sound(&catalog);
    let next = catalog.write(|tx| tx.append_event(event("q", Verdict::Refused))).unwrap();
    assert_eq!((next.id.as_str(), told(&catalog, "p"), told(&catalog, "q")), ("0000000000000003", (1, 0), (1, 2)));
    sound(&catalog);
}

#[test]
fn messages_are_bounded_in_time_and_number() {
    let (catalog, _directory) = catalog();
    let message = |project: &str, created_us| Message {
        id: new_id(),
        project: project.to_owned(),
        request: "r".to_owned(),
        resource_type: "VOLUME".to_owned(),
        resource: "v".to_owned(),
        event: "e".to_owned(),
        text: "t".to_owned(),
        created_us,
    };
    let now = now_us();
    let theirs = message("q", now - MESSAGE_TIME + 60_000_000);
    let left = catalog.write(|tx| {
        tx.leave_message(&theirs)?;
        tx.leave_message(&message("q", now - MESSAGE_TIME - 1))?;
        tx.leave_message(&message("q", 1))?;
        (0..1005).try_for_each(|n| tx.leave_message(&message("p", now + n)))?;
        tx.found::<Message>(&listed(Message::KIND, Some("p")).bytes())
    });
    let left = left.unwrap();
    assert_eq!((left.len(), left.last().unwrap().created_us), (1000, now + 5), "the newest");
    assert_eq!(catalog.write(|tx| tx.expire_messages(1)).unwrap(), 1);
    assert_eq!(catalog.write(|tx| tx.expire_messages(100)).unwrap(), 1);
    assert_eq!(catalog.write(|tx| tx.expire_messages(100)).unwrap(), 0);
    assert_eq!(catalog.read().found::<Message>(&listed(Message::KIND, Some("q")).bytes()).unwrap(), [theirs]);
    sound(&catalog);
}

#[test]
fn a_sorted_list_goes_on_behind_a_marker_that_fits_no_more() {
    let (catalog, _directory) = catalog();
    let all: Vec<Volume> = (0..7).map(|n| volume("p", n)).collect();
    all.iter().for_each(|v| put(&catalog, v));
    let by_name = |a: &Volume, b: &Volume| a.name.cmp(&b.name);
    let available = |v: &Volume| v.status == VolumeStatus::Available;
    let order = Paging { limit: 3, order: Some(&by_name), ..paging(None) };
    let first = catalog.read().page(&order, available).unwrap();
    assert_eq!((names(&first), first.more), (vec!["v0", "v1", "v2"], true));
    let marker = first.items[2].clone();
    catalog.write(|tx| tx.put(&Volume { status: VolumeStatus::Error, ..marker.clone() })).unwrap();
    let next = catalog.read().page(&Paging { marker: Some(&marker.id), ..order }, available).unwrap();
    assert_eq!((names(&next), next.more), (vec!["v3", "v4", "v5"], true));
}

/// All files of a catalog that is not open.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().map(|file| file.unwrap().path()) {
        let _bytes = std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
    }
}

/// Where its last transactions are.
fn journal(catalog: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(catalog).unwrap().map(|file| file.unwrap().path());
    let mut journals: Vec<_> = files.filter(|path| path.extension().is_some_and(|ext| ext == "log")).collect();
    journals.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
    journals.pop().unwrap()
}

/// A half last record was never answered. Damage before it would take answered ones away with it: that is said, and nothing is opened.
#[test]
fn what_was_answered_is_there_or_missed() {
    let (catalog, directory) = catalog();
    (0..100).for_each(|n| put(&catalog, &volume(&format!("p{n}"), n)));
    drop(catalog);
    let whole = directory.path().join("catalog");
    let (torn, damaged) = (directory.path().join("torn"), directory.path().join("damaged"));
    copy(&whole, &torn);
    let bytes = std::fs::read(journal(&torn)).unwrap();
    std::fs::write(journal(&torn), &bytes[..bytes.len() - 10]).unwrap();
    let opened = Catalog::open(&torn, Kept::default()).unwrap();
    assert_eq!(opened.read().all::<Volume>().unwrap().len(), 99);
    sound(&opened);
    copy(&whole, &damaged);
    let mut bytes = bytes;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(journal(&damaged), &bytes).unwrap();
    let refused = Catalog::open(&damaged, Kept::default()).err().unwrap();
    assert!(refused.message.contains("cannot be opened"), "{refused}");
    let opened = Catalog::open(&whole, Kept::default()).unwrap();
    assert_eq!(opened.read().all::<Volume>().unwrap().len(), 100);
}

#[test]
fn objects_are_found_wherever_they_stand() {
    let (catalog, _directory) = catalog();
    // Two projects, whose objects stand among each other, since ids are made by chance.
    for n in 0..300 {
        catalog.write(|tx| tx.put(&volume(if n % 7 == 0 { "few" } else { "many" }, n))).unwrap();
    }
    let tx = catalog.read();
    let there = tx.ids(&objects::listed(Volume::KIND, Some("few")).bytes()).unwrap();
    let gone = [new_id(), "0".to_owned(), "zzz".to_owned(), String::new()];
    let all = tx.ids(&objects::listed(Volume::KIND, None).bytes()).unwrap();
    for ids in [&there[..], &all[..], &gone[..], &[there.clone(), gone.to_vec(), all.clone()].concat()] {
        let mut found: Vec<(usize, Volume)> = Vec::new();
        tx.each_of(ids, |place, object| found.push((place, object))).unwrap();
        found.sort_by_key(|(place, _)| *place);
        let one_by_one = ids.iter().enumerate().filter_map(|(place, id)| Some((place, tx.get::<Volume>(id).unwrap()?)));
        assert_eq!(found, one_by_one.collect::<Vec<_>>());
    }
    // A transaction sees what it has changed itself.
    let seen = catalog.write(|tx| {
        let mut changed: Volume = tx.require(&there[0])?;
        changed.name = Some("changed".to_owned());
        tx.put(&changed)?;
        tx.found::<Volume>(&objects::listed(Volume::KIND, Some("few")).bytes())
    });
    let seen = seen.unwrap();
    assert_eq!((seen.len(), seen[0].name.as_deref()), (there.len(), Some("changed")));
    let order: Vec<&str> = seen.iter().map(|volume| volume.id.as_str()).collect();
    assert_eq!(order, there);
}

/// The same transactions but for one, as a journal is recovered that has lost it.
fn without(catalog: &Catalog, directory: &Path, lost: Option<usize>) -> Answer<Catalog> {
    drop(std::fs::remove_dir_all(directory));
    let db = DB::open_default(directory).unwrap();
    for (number, pair) in catalog.inner.db.get_updates_since(0).unwrap().enumerate() {
        let (_, batch) = pair.unwrap();
        if lost != Some(number) {
            db.write(batch).unwrap();
        }
    }
    drop(db);
    Catalog::open(directory, Kept::default())
}

/// RocksDB does not miss what is missing in the middle of its journal.
#[test]
fn a_catalog_that_lacks_a_transaction_before_others_is_not_opened() {
    let (catalog, directory) = catalog();
    let all: Vec<Volume> = (0..4).map(|n| volume("p", n)).collect();
    all.iter().for_each(|v| put(&catalog, v));
    // With the one that made it.
    assert_eq!(marked(&catalog), 5);
    let copy = directory.path().join("copy");
    for lost in 0..4 {
        let refused = without(&catalog, &copy, Some(lost)).err().unwrap();
        let why = if lost == 0 { "its first transaction".to_owned() } else { format!("after number {lost}") };
        assert!(refused.message.contains("copy cannot be opened") && refused.message.contains(&why), "{refused}");
        // It stays so.
        let again = Catalog::open(&copy, Kept::default()).err().unwrap();
        assert_eq!(again.message, refused.message);
    }
    let whole = without(&catalog, &copy, None).unwrap();
    assert_eq!((marked(&whole), whole.read().all::<Volume>().unwrap().len()), (5, 4));
    drop(whole);
    // One that is the last looks like one that was never answered.
    let shorter = without(&catalog, &copy, Some(4)).unwrap();
    assert_eq!((marked(&shorter), shorter.read().all::<Volume>().unwrap().len()), (4, 3));
    put(&shorter, &all[3]);
    drop(shorter);
    sound(&Catalog::open(&copy, Kept::default()).unwrap());
}
