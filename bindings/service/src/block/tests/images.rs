//! Images over a real pool: what is taken in, what is refused, what is left then.

use cairn_engine::IoBuf;
use futures_util::TryStreamExt;
use std::{collections::BTreeSet, process::Command};

use super::{
    boundaries::PATIENCE,
    world::{World, admin, caller, hold_at},
};
use crate::{
    block::{Caller, ImageFields, NewImageOfVolume, NewVolume, Role, images::GrantedFile},
    catalog::{Content, Image, Intent, Record, Tx, Volume, engine_image, engine_image_file},
    domain::{Count, DiskFormat, GIB, ImageStatus, QuotaKey, Resource, VolumeStatus},
    fault::{Answer, FaultKind},
    image::{
        Hashing,
        qcow2::{Target, tests::all_of_one},
    },
};

/// What the pool has to have for the images of a catalog.
pub(super) fn stored(tx: &Tx<'_>) -> BTreeSet<String> {
    let active = tx.all::<Image>().unwrap().into_iter().filter(|image| image.status == ImageStatus::Active);
    active
        .flat_map(|image| {
            let file = (image.format == Some(DiskFormat::Qcow2)).then(|| engine_image_file(&image.id));
            [Some(engine_image(&image.id)), file].into_iter().flatten()
        })
        .collect()
}

/// A disk with something in it here and there; its size is no multiple of anything.
pub(super) fn disk() -> Vec<u8> {
    let mut disk = vec![0; (5 << 20) + 777];
    for (place, length) in [(0, 100), (70_000, 200_000), (4 << 20, 4096), ((5 << 20) + 700, 77)] {
        disk[place..place + length].iter_mut().enumerate().for_each(|(n, byte)| *byte = (n % 251) as u8 + 1);
    }
    disk
}

/// The same as a qcow2 file, by qemu-img. Its disk is longer: up to the next sector.
pub(super) fn packed(disk: &[u8]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let (raw, file) = (directory.path().join("raw"), directory.path().join("file"));
    std::fs::write(&raw, disk).unwrap();
    let mut command = Command::new("qemu-img");
    let done = command.args(["convert", "-c", "-f", "raw", "-O", "qcow2"]).arg(&raw).arg(&file).status().unwrap();
    assert!(done.success());
    std::fs::read(&file).unwrap()
}

pub(super) fn fields(format: DiskFormat) -> ImageFields {
    ImageFields { name: Some("i".to_owned()), format: Some(format), bare: true, ..ImageFields::default() }
}

/// Sends bytes in pieces of odd sizes.
pub(super) async fn send(world: &World, me: &Caller, id: &str, bytes: &[u8], length: Option<u64>) -> Answer<()> {
    let mut sending = world.block.receive_image(me, id, length).await?;
    for part in bytes.chunks(300_007) {
        if !sending.data(part).await {
            break;
        }
    }
    sending.end().await
}

/// An image with content.
pub(super) async fn image(world: &World, format: DiskFormat, bytes: &[u8]) -> Image {
    let made = world.block.create_image(&admin(), fields(format)).unwrap();
    send(world, &admin(), &made.id, bytes, Some(bytes.len() as u64)).await.unwrap();
    world.block.image(&admin(), &made.id).unwrap()
}

/// The bytes that are given out.
pub(super) async fn bytes(world: &World, id: &str) -> Vec<u8> {
    let download = world.block.download(&admin(), id).unwrap().unwrap();
    let pieces: Vec<bytes::Bytes> = download.pieces().try_collect().await.unwrap();
    pieces.concat()
}

/// What is told of them.
pub(super) fn told(bytes: &[u8]) -> (u64, String, String) {
    let mut hashing = Hashing::new();
    hashing.add(bytes);
    let (md5, sha512) = hashing.end();
    (bytes.len() as u64, md5, sha512)
}

pub(super) fn of(content: &Content) -> (u64, String, String) {
    (content.size, content.md5.clone(), content.sha512.clone())
}

/// The first bytes of a volume.
pub(super) async fn content(world: &World, volume: &Volume, length: usize) -> Vec<u8> {
    let open = world.pool.volume(&volume.engine_name()).await.unwrap();
    let mut data = open.read(0, length.next_multiple_of(512)).await.unwrap().to_vec();
    data.truncate(length);
    data
}

pub(super) fn of_image(id: &str, size: u64) -> NewVolume {
    NewVolume { image: Some(id.to_owned()), size: Some(size), ..NewVolume::default() }
}

pub(super) fn of_volume(format: DiskFormat) -> NewImageOfVolume {
    NewImageOfVolume { name: "v".to_owned(), format, public: false, protected: false, force: false }
}

fn count(world: &World, resource: Resource) -> Count {
    world.block.catalog().read().count("p", &QuotaKey::of(resource)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_formats_come_in_and_out_and_become_volumes() {
    let world = World::new().await;
    let disk = disk();
    for (format, sent) in [(DiskFormat::Raw, disk.clone()), (DiskFormat::Qcow2, packed(&disk))] {
        let image = image(&world, format, &sent).await;
        assert_eq!(image.status, ImageStatus::Active);
        let has = image.content.clone().unwrap();
        assert_eq!(of(&has), told(&sent));
        let whole = if format == DiskFormat::Raw { disk.len() } else { disk.len().next_multiple_of(512) };
        assert_eq!(has.virtual_size, whole as u64);
        assert!(bytes(&world, &image.id).await == sent, "{format}: the bytes as they were sent");
        let volume = world.made(of_image(&image.id, 2)).await;
        assert!(volume.bootable && volume.image["image_id"] == image.id && volume.image["checksum"] == has.md5);
        assert!(content(&world, &volume, disk.len()).await == disk, "{format}: the disk");
        let open = world.pool.volume(&volume.engine_name()).await.unwrap();
        assert_eq!(open.size().await.unwrap(), 2 * GIB);
        assert!(open.read((5 << 20) + 1024, 1 << 20).await.unwrap().iter().all(|byte| *byte == 0));
        // Zeros are stored nowhere.
        let page = open.extents(0, 2 * GIB).await.unwrap();
        let data = page.extents.iter().filter(|extent| extent.kind == cairn_engine::ExtentKind::Data);
        assert!(data.map(|extent| extent.length).sum::<u64>() < 500_000);
        // What is written to the volume changes the image in nothing, and the image may go.
        open.write(0, IoBuf::from(&[9; 4096][..])).await.unwrap();
        assert!(bytes(&world, &image.id).await == sent);
        world.block.delete_image(&admin(), &image.id).await.unwrap();
        assert_eq!(open.read(0, 4096).await.unwrap()[..], [9; 4096]);
    }
    assert_eq!((count(&world, Resource::Images), count(&world, Resource::ImageGigabytes)), Default::default());
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_leaves_the_image_waiting_and_nothing_behind() {
    let world = World::new().await;
    let disk = disk();
    let qcow2 = packed(&disk);
    let mut damaged = qcow2.clone();
    damaged[60_000..].iter_mut().for_each(|byte| *byte ^= 0x5a);
    let mut huge = qcow2.clone();
    huge[24..32].copy_from_slice(&(4096 * GIB).to_be_bytes());
    let mut backed = qcow2.clone();
    backed[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 4]);
    for (format, sent, length, kind, words) in [
        (DiskFormat::Raw, &qcow2, None, FaultKind::BadRequest, "say so"),
        (DiskFormat::Raw, &disk, Some(disk.len() as u64 - 1), FaultKind::BadRequest, "announced"),
        (DiskFormat::Raw, &disk, Some(disk.len() as u64 + 1), FaultKind::BadRequest, "announced"),
        (DiskFormat::Raw, &Vec::new(), None, FaultKind::BadRequest, "0 bytes"),
        (DiskFormat::Raw, &disk, Some(u64::MAX), FaultKind::OverLimit, "1024 GiB"),
        (DiskFormat::Qcow2, &disk, None, FaultKind::BadRequest, "is it raw?"),
        (DiskFormat::Qcow2, &damaged, None, FaultKind::BadRequest, "qcow2"),
        (DiskFormat::Qcow2, &huge, None, FaultKind::BadRequest, "first table"),
        (DiskFormat::Qcow2, &backed, None, FaultKind::BadRequest, "backing file"),
    ] {
        let made = world.block.create_image(&admin(), fields(format)).unwrap();
        let fault = send(&world, &admin(), &made.id, sent, length).await.unwrap_err();
        assert!(fault.kind == kind && fault.message.contains(words), "{fault:?} {words}");
        let image = world.block.image(&admin(), &made.id).unwrap();
        assert_eq!((image.status, image.content), (ImageStatus::Queued, None));
        assert!(world.block.download(&admin(), &made.id).unwrap().is_none());
        world.sound().await;
    }
    assert_eq!(count(&world, Resource::ImageGigabytes), Count::default());
    // It can be sent again.
    let waiting = world.block.images(&admin()).unwrap().pop().unwrap();
    let again = if waiting.format == Some(DiskFormat::Raw) { &disk } else { &qcow2 };
    send(&world, &admin(), &waiting.id, again, None).await.unwrap();
    assert_eq!(world.block.image(&admin(), &waiting.id).unwrap().status, ImageStatus::Active);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_alone_and_may_be_cut_off() {
    let world = World::new().await;
    let (hook, held) = hold_at(1);
    let world = world.restart(hook).await;
    let made = world.block.create_image(&admin(), fields(DiskFormat::Raw)).unwrap();
    let sending = world.block.receive_image(&admin(), &made.id, None).await.unwrap();
    held.came.notified().await;
    let second = world.block.receive_image(&admin(), &made.id, None).await.err().unwrap();
    assert_eq!(second.kind, FaultKind::Conflict);
    let deleted = world.block.delete_image(&admin(), &made.id).await.unwrap_err();
    assert!(deleted.kind == FaultKind::Conflict && deleted.message.contains("under way"), "{deleted}");
    assert_eq!(count(&world, Resource::ImageGigabytes), Count { in_use: 0, reserved: 1 });
    held.go.notify_one();
    drop(sending);
    world.block.settled().await;
    assert_eq!(world.block.image(&admin(), &made.id).unwrap().status, ImageStatus::Queued);
    world.sound().await;
    world.block.delete_image(&admin(), &made.id).await.unwrap();
    assert_eq!(world.block.image(&admin(), &made.id).unwrap_err().kind, FaultKind::NotFound);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quota_is_asked_before_and_while_bytes_come() {
    let world = World::new().await;
    let limits = [(Resource::Images, 2), (Resource::ImageGigabytes, 1)];
    world.block.set_image_quota(&admin(), "p", &limits).unwrap();
    let first = image(&world, DiskFormat::Raw, b"x").await;
    assert_eq!(count(&world, Resource::ImageGigabytes), Count { in_use: 1, reserved: 0 });
    let second = world.block.create_image(&admin(), fields(DiskFormat::Raw)).unwrap();
    assert_eq!(world.block.create_image(&admin(), fields(DiskFormat::Raw)).unwrap_err().kind, FaultKind::OverLimit);
    assert_eq!(send(&world, &admin(), &second.id, b"y", None).await.unwrap_err().kind, FaultKind::OverLimit);
    world.block.delete_image(&admin(), &first.id).await.unwrap();
    // The file, and then its disk.
    let third = world.block.create_image(&admin(), fields(DiskFormat::Qcow2)).unwrap();
    let sent = packed(&disk());
    assert_eq!(send(&world, &admin(), &third.id, &sent, None).await.unwrap_err().kind, FaultKind::OverLimit);
    world.block.set_image_quota(&admin(), "p", &[(Resource::ImageGigabytes, 2)]).unwrap();
    send(&world, &admin(), &third.id, &sent, None).await.unwrap();
    assert_eq!(count(&world, Resource::ImageGigabytes), Count { in_use: 2, reserved: 0 });
    let volume = world.volume("v").await;
    let over = world.block.volume_to_image(&admin(), &volume.id, of_volume(DiskFormat::Raw)).await.unwrap_err();
    assert_eq!((over.kind, world.show(&volume.id).status), (FaultKind::OverLimit, VolumeStatus::Available));
    world.sound().await;
}

/// GiB that the pool has promised, as who asks for too much is told.
async fn promised(world: &World) -> u64 {
    let refused = world.block.room().await.unwrap().takes(1 << 30).unwrap_err();
    let (before, _) = refused.message.split_once(" GiB are promised").unwrap();
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

/// The file of an image of a volume counts while it is written, each GiB before anything is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_written_is_granted_before() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    world.write(&volume, 7).await;
    let made = async |world: World| {
        // The volume is released, and the file not begun.
        let (hook, held) = hold_at(4);
        let world = world.restart(hook).await;
        let made = world.block.volume_to_image(&admin(), &volume.id, of_volume(DiskFormat::Qcow2)).await.unwrap();
        held.came.notified().await;
        (world, held, made.1.id)
    };
    let (held, id);
    (world, held, id) = made(world).await;
    let (key, reserved) = (Intent::key(Image::KIND, &id), |gib| Count { in_use: 0, reserved: gib });
    assert_eq!((count(&world, Resource::ImageGigabytes), promised(&world).await), (reserved(1), 2));
    world.block.set_image_quota(&admin(), "p", &[(Resource::ImageGigabytes, 3)]).unwrap();
    let mut file = GrantedFile::create(&world.block, &key, &id, 1).await.unwrap();
    assert_eq!((count(&world, Resource::ImageGigabytes), promised(&world).await), (reserved(2), 3));
    file.write(GIB - 4096, &[1; 4096]).await.unwrap();
    assert_eq!((count(&world, Resource::ImageGigabytes), promised(&world).await), (reserved(2), 3));
    file.write(GIB, &[1; 4096]).await.unwrap();
    assert_eq!((count(&world, Resource::ImageGigabytes), promised(&world).await), (reserved(3), 4));
    let over = file.write(2 * GIB, &[1; 4096]).await.unwrap_err();
    assert_eq!((over.kind, count(&world, Resource::ImageGigabytes)), (FaultKind::OverLimit, reserved(3)));
    assert!(world.pool.volume_info(&engine_image_file(&id)).await.unwrap().size <= 2 * GIB, "nothing beyond is there");
    drop(file);
    // It is begun anew, and takes what it needs.
    held.go.notify_one();
    world.block.settled().await;
    assert_eq!(world.block.image(&admin(), &id).unwrap().status, ImageStatus::Active);
    assert_eq!(
        (count(&world, Resource::ImageGigabytes), promised(&world).await),
        (Count { in_use: 2, reserved: 0 }, 2)
    );
    world.sound().await;
    // One that has no quota for its file is refused before there is any.
    world.block.set_image_quota(&admin(), "p", &[(Resource::ImageGigabytes, 3)]).unwrap();
    let (held, second);
    (world, held, second) = made(world).await;
    held.go.notify_one();
    world.block.settled().await;
    assert_eq!(world.block.image(&admin(), &second).unwrap().status, ImageStatus::Killed);
    assert_eq!(count(&world, Resource::ImageGigabytes), Count { in_use: 2, reserved: 0 });
    world.block.delete_image(&admin(), &second).await.unwrap();
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_do_what_with_images_of_others() {
    let world = World::new().await;
    let (mine, theirs) = (caller("p", Role::Member), caller("q", Role::Member));
    let publish = |fields: &mut ImageFields| {
        fields.public = true;
        Ok(())
    };
    let made = image(&world, DiskFormat::Raw, &disk()).await;
    assert_eq!(world.block.image(&theirs, &made.id).unwrap_err().kind, FaultKind::NotFound);
    let new = of_image(&made.id, 1);
    assert_eq!(world.block.create_volume(&theirs, new.clone()).await.unwrap_err().kind, FaultKind::NotFound);
    assert_eq!(world.block.edit_image(&mine, &made.id, publish).unwrap_err().kind, FaultKind::Forbidden);
    assert!(world.block.images(&theirs).unwrap().is_empty());
    drop(world.block.edit_image(&admin(), &made.id, publish).unwrap());
    assert_eq!(world.block.images(&theirs).unwrap().len(), 1);
    assert_eq!(world.block.images(&mine).unwrap().len(), 1);
    let volume = world.block.create_volume(&theirs, new).await.unwrap();
    world.block.settled().await;
    assert_eq!(world.show(&volume.id).status, VolumeStatus::Available);
    assert_eq!(world.block.delete_image(&theirs, &made.id).await.unwrap_err().kind, FaultKind::Forbidden);
    let rename = |fields: &mut ImageFields| {
        fields.name = None;
        Ok(())
    };
    assert_eq!(world.block.edit_image(&theirs, &made.id, rename).unwrap_err().kind, FaultKind::Forbidden);
    // A name is its owner's to change, the formats nobody's once there is content.
    drop(world.block.edit_image(&mine, &made.id, rename).unwrap());
    let reshape = |fields: &mut ImageFields| {
        fields.format = Some(DiskFormat::Qcow2);
        Ok(())
    };
    assert_eq!(world.block.edit_image(&mine, &made.id, reshape).unwrap_err().kind, FaultKind::Forbidden);
    let protect = |on: bool| {
        world.block.edit_image(&mine, &made.id, |fields| {
            fields.protected = on;
            Ok(())
        })
    };
    drop(protect(true).unwrap());
    assert_eq!(world.block.delete_image(&mine, &made.id).await.unwrap_err().kind, FaultKind::Forbidden);
    drop(protect(false).unwrap());
    world.block.delete_image(&mine, &made.id).await.unwrap();
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_is_large_enough_for_its_image() {
    let world = World::new().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let mut command = Command::new("qemu-img");
    assert!(
        command
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&file)
            .arg((GIB + 512).to_string())
            .status()
            .unwrap()
            .success()
    );
    let made = image(&world, DiskFormat::Qcow2, &std::fs::read(&file).unwrap()).await;
    let refused = async |size: Option<u64>, words: &str| {
        let new = NewVolume { size, ..of_image(&made.id, 1) };
        let fault = world.block.create_volume(&admin(), new).await.unwrap_err();
        assert!(fault.kind == FaultKind::BadRequest && fault.message.contains(words), "{fault}");
    };
    refused(Some(1), "the image has 2 GiB").await;
    refused(None, "needs a size").await;
    drop(
        world
            .block
            .edit_image(&admin(), &made.id, |fields| {
                fields.min_disk = 4;
                Ok(())
            })
            .unwrap(),
    );
    refused(Some(3), "min_disk").await;
    let volume = world.made(of_image(&made.id, 4)).await;
    assert_eq!(volume.image["min_disk"], "4");
    let waiting = world.block.create_image(&admin(), fields(DiskFormat::Raw)).unwrap();
    let fault = world.block.create_volume(&admin(), of_image(&waiting.id, 1)).await.unwrap_err();
    assert!(fault.message.contains("queued"), "{fault}");
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_of_a_volume_that_is_cancelled_leaves_nothing() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    for boundary in 0..5 {
        let (hook, held) = hold_at(boundary);
        world = world.restart(hook).await;
        let (_, image) = world.block.volume_to_image(&admin(), &volume.id, of_volume(DiskFormat::Raw)).await.unwrap();
        held.came.notified().await;
        let task = world.block.list_tasks(&admin(), None).await.unwrap().remove(0);
        assert!(task.cancellable && task.kind == "image", "{task:?}");
        drop(world.block.cancel_task(&admin(), &task.id).await.unwrap());
        held.go.notify_one();
        world.block.settled().await;
        assert_eq!(world.block.image(&admin(), &image.id).unwrap().status, ImageStatus::Killed);
        assert_eq!(world.show(&volume.id).status, VolumeStatus::Available);
        world.sound().await;
        world.block.delete_image(&admin(), &image.id).await.unwrap();
    }
    assert_eq!(count(&world, Resource::Images), Count::default());
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_sends_four_at_once_and_holds_nobody_else_up() {
    let world = World::new().await;
    let new = |me: &Caller| world.block.create_image(me, fields(DiskFormat::Raw)).unwrap().id;
    let mut sending = Vec::new();
    for _ in 0..4 {
        sending.push(world.block.receive_image(&admin(), &new(&admin()), None).await.unwrap());
    }
    let fifth = new(&admin());
    let fault = world.block.receive_image(&admin(), &fifth, None).await.err().unwrap();
    assert_eq!(
        (fault.kind, world.block.image(&admin(), &fifth).unwrap().status),
        (FaultKind::TooMany, ImageStatus::Queued)
    );
    assert_eq!(count(&world, Resource::ImageGigabytes), Count { in_use: 0, reserved: 4 });
    let other = caller("q", Role::Member);
    send(&world, &other, &new(&other), b"theirs", None).await.unwrap();
    // One that has ended makes room for another.
    sending.pop().unwrap().cut_off().await;
    send(&world, &admin(), &fifth, b"mine", None).await.unwrap();
    for one in sending {
        one.cut_off().await;
    }
    assert_eq!(count(&world, Resource::ImageGigabytes), Count { in_use: 1, reserved: 0 });
    world.sound().await;
}

/// A few megabytes whose disk is 900 GiB of compressed zeros.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_takes_hours_to_unpack_holds_nobody_up_and_can_be_cancelled() {
    let world = World::new().await;
    let (hook, held) = hold_at(2);
    let world = world.restart(hook).await;
    let made = world.block.create_image(&admin(), fields(DiskFormat::Qcow2)).unwrap();
    let mut sending = world.block.receive_image(&admin(), &made.id, None).await.unwrap();
    assert!(sending.data(&all_of_one(21, 900 << 30, true)).await);
    let sent = tokio::spawn(sending.end());
    held.came.notified().await;
    held.go.notify_one();
    let other = tokio::time::timeout(PATIENCE, image(&world, DiskFormat::Raw, b"theirs")).await;
    assert_eq!(other.expect("nobody is held up").status, ImageStatus::Active);
    let task = world.block.list_tasks(&admin(), None).await.unwrap().remove(0);
    drop(world.block.cancel_task(&admin(), &task.id).await.unwrap());
    let ended = tokio::time::timeout(PATIENCE, sent).await.expect("it is told to end").unwrap();
    assert!(ended.is_err());
    world.block.settled().await;
    assert_eq!(world.block.image(&admin(), &made.id).unwrap().status, ImageStatus::Queued);
    world.sound().await;
}
