//! A wish to cancel at each boundary of each operation that can be cancelled, followed by the end of the service at each boundary of what
//! takes it back.
//!
//! What must hold: a wish that was accepted is kept, one that was refused changes nothing, and either way the objects are lawful.

use super::{
    boundaries::PATIENCE,
    crash_native::back_up,
    world::{World, admin, both, free, freeze_at, hold_at},
};
use cairn_engine::Target;

use crate::{
    block::{EventFilter, NewBackup, NewVolume, work::GRACE},
    catalog::{Backup, Intent, Record, Verdict, Volume},
    domain::{BackupStatus, VolumeStatus},
    fault::FaultKind,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    BackUp,
    RestoreOver,
    RestoreNew,
    CreateFromBackup,
}

/// A volume with 2, a backup of it with 1.
struct Before {
    volume: Volume,
    backup: Backup,
}

async fn prepare(world: &World) -> Before {
    let volume = world.volume("v").await;
    world.write(&volume, 1).await;
    let backup = back_up(world, &volume.id, false).await;
    world.write(&volume, 2).await;
    Before { volume, backup }
}

/// Answers the id of the volume or backup that it is about.
async fn begin(world: &World, work: Work, before: &Before) -> String {
    let (block, me) = (&world.block, admin());
    match work {
        Work::BackUp => {
            let new = NewBackup { volume: before.volume.id.clone(), incremental: true, ..NewBackup::default() };
            block.create_backup(&me, new).unwrap().id
        }
        Work::RestoreOver => block.restore(&me, &before.backup.id, Some(&before.volume.id), None).await.unwrap().1.id,
        Work::RestoreNew => block.restore(&me, &before.backup.id, None, None).await.unwrap().1.id,
        Work::CreateFromBackup => {
            let new = NewVolume { backup: Some(before.backup.id.clone()), ..NewVolume::default() };
            block.create_volume(&me, new).await.unwrap().id
        }
    }
}

/// Wishes it; whether that was accepted.
async fn cancel(world: &World) -> bool {
    let intents = world.block.catalog().read().all::<Intent>().unwrap();
    let [intent] = intents.as_slice() else { return false };
    match world.block.cancel_task(&admin(), &intent.task).await {
        Ok(task) => {
            assert_eq!(task.status, "cancelling");
            true
        }
        Err(fault) => {
            assert_eq!(fault.kind, FaultKind::Conflict, "{fault}");
            false
        }
    }
}

async fn check(world: &World, work: Work, id: &str, before: &Before, cancelled: bool) {
    world.sound().await;
    let verdicts = world.block.events(&admin(), &EventFilter::default(), None, 1).unwrap().items;
    assert_eq!(verdicts[0].verdict, if cancelled { Verdict::Cancelled } else { Verdict::Success }, "{work:?}");
    let backup: Backup = world.block.find(&admin(), &before.backup.id).unwrap();
    assert_eq!(backup.status, BackupStatus::Available);
    assert_eq!(world.show(&before.volume.id).status, VolumeStatus::Available);
    match work {
        Work::BackUp => {
            let made: Backup = world.block.find(&admin(), id).unwrap();
            let expected = if cancelled { BackupStatus::Error } else { BackupStatus::Available };
            assert_eq!((made.status, made.stored_id.is_some()), (expected, !cancelled));
            assert_eq!(world.first_byte(&before.volume.id).await, 2);
            world.block.delete_backup(&admin(), id, false).unwrap();
        }
        Work::RestoreOver => {
            assert_eq!(world.first_byte(id).await, if cancelled { 2 } else { 1 });
        }
        Work::RestoreNew | Work::CreateFromBackup => {
            let error = if work == Work::RestoreNew { VolumeStatus::ErrorRestoring } else { VolumeStatus::Error };
            assert_eq!(world.show(id).status, if cancelled { error } else { VolumeStatus::Available });
            if !cancelled {
                assert_eq!(world.first_byte(id).await, 1);
            }
            world.block.delete_volume(&admin(), id, false, false).unwrap();
        }
    }
    // Its owner can clear it.
    world.block.settled().await;
    world.sound().await;
    assert!(work == Work::RestoreOver || world.block.find::<Backup>(&admin(), id).is_err());
}

/// Begins it and holds it at this boundary. Nothing if it ended before.
async fn held_at(work: Work, number: usize) -> Option<(World, Before, String, super::world::Held)> {
    let mut world = World::new().await;
    let before = prepare(&world).await;
    let (hook, held) = hold_at(number);
    world = world.restart(hook).await;
    let id = begin(&world, work, &before).await;
    let came = tokio::select! {
        () = held.came.notified() => true,
        () = world.block.settled() => false,
        () = tokio::time::sleep(PATIENCE) => panic!("{work:?} neither ends nor comes to boundary {number}"),
    };
    came.then_some((world, before, id, held))
}

async fn cancelled_everywhere(work: Work) {
    let (mut accepted, mut refused) = (0, 0);
    for number in 0.. {
        // The operation goes on after the wish.
        let Some((world, before, id, held)) = held_at(work, number).await else { break };
        let is_cancelled = cancel(&world).await;
        held.go.notify_one();
        world.block.settled().await;
        check(&world, work, &id, &before, is_cancelled).await;
        accepted += usize::from(is_cancelled);
        refused += usize::from(!is_cancelled);
        // The service ends after the wish, and again at each boundary of what takes it back.
        for second in 0.. {
            let Some((world, before, id, _held)) = held_at(work, number).await else { break };
            assert_eq!(cancel(&world).await, is_cancelled);
            let (hook, frozen) = freeze_at(second);
            let world = world.restart(hook).await;
            let _resumed = world.block.resume().unwrap();
            let came = tokio::select! {
                () = frozen.notified() => true,
                () = world.block.settled() => false,
                () = tokio::time::sleep(PATIENCE) => panic!("{work:?} neither ends nor comes to boundary {second}"),
            };
            let world = world.restart(free()).await;
            let _resumed = world.block.resume().unwrap();
            world.block.settled().await;
            check(&world, work, &id, &before, is_cancelled).await;
            if !came {
                break;
            }
        }
    }
    assert!(accepted >= 1 && refused >= 1, "{work:?}: {accepted} accepted, {refused} refused");
}

macro_rules! works {
    ($($name:ident: $work:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            cancelled_everywhere(Work::$work).await;
        }
    )*};
}

works! {
    a_backup: BackUp;
    a_restore_over: RestoreOver;
    a_restore_to_a_new_one: RestoreNew;
    a_volume_from_a_backup: CreateFromBackup;
}

/// Ways back that a failed restore left, or one at the control socket, are not this one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_restore_goes_back_to_its_own_beginning() {
    let (mut accepted, mut refused) = (0, 0);
    for number in 0.. {
        let mut world = World::new().await;
        let before = prepare(&world).await;
        let earlier: Target = format!("{}@before-restore-1", before.volume.engine_name()).parse().unwrap();
        let _taken = world.pool.snapshot(std::slice::from_ref(&earlier)).await.unwrap();
        world.write(&before.volume, 3).await;
        let (hook, held) = hold_at(number);
        world = world.restart(hook).await;
        let id = begin(&world, Work::RestoreOver, &before).await;
        let came = tokio::select! {
            () = held.came.notified() => true,
            () = world.block.settled() => false,
        };
        if !came {
            break;
        }
        let is_cancelled = cancel(&world).await;
        held.go.notify_one();
        world.block.settled().await;
        assert_eq!(world.first_byte(&id).await, if is_cancelled { 3 } else { 1 }, "at {number}");
        assert_eq!(world.show(&id).status, VolumeStatus::Available);
        // It is left to whom it belongs.
        world.pool.delete_snapshot(&earlier).await.unwrap();
        world.sound().await;
        accepted += usize::from(is_cancelled);
        refused += usize::from(!is_cancelled);
    }
    assert!(accepted >= 1 && refused >= 1, "{accepted} accepted, {refused} refused");
}

/// A restore that a version has begun which did not note whose ways back there are: all of them are its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_of_an_earlier_version_has_its_way_back() {
    // Cancelled before that version ended, and after this one came; not cancelled; through, but for its way back.
    for (cancelled, cancels, past, holds) in
        [(true, false, false, 2), (false, true, false, 2), (false, false, false, 1), (false, false, true, 3)]
    {
        let mut world = World::new().await;
        let before = prepare(&world).await;
        let (hook, held) = hold_at(0);
        world = world.restart(hook).await;
        let id = begin(&world, Work::RestoreOver, &before).await;
        held.came.notified().await;
        let (hook, held) = hold_at(0);
        world = world.restart(hook).await;
        let recorded = world.block.catalog().write(|tx| {
            let key = Intent::key(Backup::KIND, &before.backup.id);
            let mut intent = serde_json::to_value(tx.require::<Intent>(&key)?).unwrap();
            let fields = intent.as_object_mut().unwrap();
            assert_eq!(fields.remove("notes_undos"), Some(true.into()));
            assert_eq!(fields.remove("earlier"), Some(serde_json::Value::Null));
            drop(fields.insert("cancelled".to_owned(), cancelled.into()));
            drop(fields.insert("past".to_owned(), past.into()));
            tx.put(&serde_json::from_value::<Intent>(intent).unwrap())
        });
        recorded.unwrap();
        // It took its way back, and wrote.
        let undo: Target = format!("{}@before-restore-1", before.volume.engine_name()).parse().unwrap();
        let _taken = world.pool.snapshot(std::slice::from_ref(&undo)).await.unwrap();
        world.write(&before.volume, 3).await;
        assert_eq!(world.block.resume().unwrap(), 1);
        held.came.notified().await;
        assert!(!cancels || cancel(&world).await);
        held.go.notify_one();
        world.block.settled().await;
        assert_eq!(world.first_byte(&id).await, holds, "{cancelled} {cancels} {past}");
        assert_eq!(world.show(&id).status, VolumeStatus::Available);
        // Nothing of it is left.
        world.sound().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_cancelled_says_so_and_what_has_ended_is_still_told() {
    let mut world = World::new().await;
    let (hook, held) = hold_at(0);
    world = world.restart(hook).await;
    let new = NewVolume { size: Some(1), ..NewVolume::default() };
    let volume = world.block.create_volume(&admin(), new).await.unwrap();
    held.came.notified().await;
    let tasks = world.block.list_tasks(&admin(), None).await.unwrap();
    assert_eq!((tasks.len(), tasks[0].object.as_str(), tasks[0].cancellable), (1, volume.id.as_str(), false));
    assert_eq!(tasks[0].status, "running");
    let task = tasks[0].id.clone();
    assert_eq!(world.block.cancel_task(&admin(), &task).await.unwrap_err().kind, FaultKind::Conflict);
    // Another project's tasks are not there.
    let other = super::world::caller("q", crate::block::Role::Member);
    assert!(world.block.list_tasks(&other, None).await.unwrap().is_empty());
    assert_eq!(world.block.task(&other, &task).await.unwrap_err().kind, FaultKind::NotFound);
    assert_eq!(world.block.cancel_task(&other, &task).await.unwrap_err().kind, FaultKind::NotFound);
    held.go.notify_one();
    world.block.settled().await;
    let ended = world.block.task(&admin(), &task).await.unwrap();
    assert_eq!((ended.status, ended.ended_us.is_some()), ("succeeded", true));
    assert_eq!(world.block.task(&other, &task).await.unwrap_err().kind, FaultKind::NotFound);
    assert_eq!(world.block.cancel_task(&admin(), &task).await.unwrap_err().kind, FaultKind::Conflict);
    assert_eq!(world.block.task(&admin(), "none").await.unwrap_err().kind, FaultKind::NotFound);
}

/// An operation is recorded as ended before its task ends. The next one on the same object may begin in between.
#[tokio::test]
async fn a_task_that_ends_does_not_hide_the_next_one() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    // Recorded, resized, finished; recorded.
    let ((first, ends), (second, begins)) = (hold_at(2), hold_at(3));
    world = world.restart(both(first, second)).await;
    world.block.extend_volume(&admin(), &volume.id, 2, false).await.unwrap();
    ends.came.notified().await;
    world.block.extend_volume(&admin(), &volume.id, 3, false).await.unwrap();
    begins.came.notified().await;
    ends.go.notify_one();
    // On one thread the first task runs to its end now.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let key = Intent::key(Volume::KIND, &volume.id);
    assert!(world.block.under_way().iter().any(|(under_way, _)| *under_way == key));
    begins.go.notify_one();
    world.block.settled().await;
    assert_eq!(world.show(&volume.id).size, 3);
    world.sound().await;
}

/// However many do not come to an end, they are waited for together.
#[tokio::test]
async fn a_stop_is_as_patient_with_many_as_with_one() {
    let mut world = World::new().await;
    let nowhere: crate::block::Hook = std::sync::Arc::new(|_| Box::pin(std::future::pending()));
    world = world.restart(nowhere).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        let new = NewVolume { size: Some(1), ..NewVolume::default() };
        made.push(world.block.create_volume(&admin(), new).await.unwrap().id);
    }
    // A clock that goes on when everybody waits for it.
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    world.block.stop().await;
    let waited = began.elapsed();
    tokio::time::resume();
    assert!(waited >= GRACE && waited < 2 * GRACE, "{waited:?}");
    world = world.restart(free()).await;
    assert_eq!(world.block.resume().unwrap(), made.len());
    world.block.settled().await;
    made.iter().for_each(|id| assert_eq!(world.show(id).status, VolumeStatus::Available));
    world.sound().await;
}
