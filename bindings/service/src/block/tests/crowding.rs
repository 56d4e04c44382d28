//! What one project, or one client, takes of what all share: places, turns, memory, time.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    ops::ControlFlow,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use ::http::Request;
use axum::{Router, body::Body};
use futures_util::TryStreamExt;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{
    boundaries::PATIENCE,
    images::{disk, fields, image, of_volume, send},
    world::{World, admin, caller, hold_at},
};
use crate::{
    block::{Block, Caller, Hook, ImageFields, Role, UPLOADS, images::GrantedFile},
    catalog::{Image, Intent, Record, engine_image_file},
    daemon::http,
    domain::{Count, DiskFormat, GIB, ImageStatus, QuotaKey, Resource, VolumeStatus},
    fault::{Answer, Fault, FaultKind},
    identity::Identity,
    image::qcow2::Target,
    rest::Rest,
};

fn routes(block: &Block) -> Router {
    let url = "http://x".to_owned();
    http::routes(&Rest { block: block.clone(), identity: Identity::dev(url.clone()), url }, 1 << 20)
}

/// A request of project q, and how many bytes its answer has.
async fn ask(routes: &Router, method: &str, path: &str, body: &str) -> (u16, Value, usize) {
    let request = Request::builder().method(method).uri(path).header("X-Auth-Token", "u:q");
    let request = request.header("OpenStack-API-Version", "volume 3.71").body(Body::from(body.to_owned())).unwrap();
    let Ok(answer) = http::answer(routes.clone(), request, Duration::from_secs(60)).await;
    let status = answer.status().as_u16();
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&text).unwrap_or_default(), text.len())
}

/// Whether it waits for something.
async fn waits<F: Future + Unpin>(work: &mut F) -> bool {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *work).poll(context).is_pending())).await
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it waits for nobody")
}

fn reserved(world: &World) -> Count {
    world.block.catalog().read().count("p", &QuotaKey::of(Resource::ImageGigabytes)).unwrap()
}

/// Properties of a kilobyte each.
fn properties(count: usize) -> BTreeMap<String, String> {
    (0..count).map(|n| (format!("{n:04}"), "\u{1f5ff}".repeat(255))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_key_to_sort_by_is_named_once() {
    let world = World::new().await;
    let routes = routes(&world.block);
    for list in ["/v3/q/messages", "/v3/q/volumes/detail", "/image/v2/images"] {
        let (status, body, _) = ask(&routes, "GET", &format!("{list}?sort={}id", "id,".repeat(10_000)), "").await;
        assert_eq!(status, 400, "{list}");
        assert!(body.to_string().contains("twice"), "{body}");
        assert_eq!(ask(&routes, "GET", &format!("{list}?sort=id:asc,created_at"), "").await.0, 200, "{list}");
    }
    drop(routes);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_of_an_image_is_bounded_and_what_is_there_stays() {
    let world = World::new().await;
    let new = |count: usize| ImageFields { properties: properties(count), ..fields(DiskFormat::Raw) };
    let refused = |outcome: Answer<Image>| {
        let fault = outcome.unwrap_err();
        assert!(fault.kind == FaultKind::OverLimit && fault.message.contains("65536 bytes"), "{fault}");
    };
    let whole = world.block.create_image(&admin(), new(64)).unwrap();
    refused(world.block.create_image(&admin(), new(65)));
    refused(world.block.edit_image(&admin(), &whole.id, |fields| {
        let _new = fields.tags.insert("t".to_owned());
        Ok(())
    }));
    // One that an earlier version took can be read, named anew, and made to say less; not more.
    let mut older = whole.clone();
    older.properties = properties(128);
    world.block.catalog().write(|tx| tx.put(&older)).unwrap();
    assert_eq!(world.block.image(&admin(), &older.id).unwrap().properties.len(), 128);
    let edit = |change: &dyn Fn(&mut ImageFields)| {
        world.block.edit_image(&admin(), &older.id, |fields| {
            change(fields);
            Ok(())
        })
    };
    refused(edit(&|fields| {
        let _new = fields.tags.insert("t".to_owned());
    }));
    let less = edit(&|fields| {
        fields.name = Some("n".to_owned());
        drop(fields.properties.remove("0000"));
    });
    assert_eq!(less.unwrap().properties.len(), 127);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_images_has_so_many_bytes() {
    let world = World::new().await;
    let me = caller("q", Role::Member);
    for n in 0..40 {
        let new =
            ImageFields { properties: properties(60), name: Some(format!("{:02}", n % 7)), ..fields(DiskFormat::Raw) };
        drop(world.block.create_image(&me, new).unwrap());
    }
    let routes = routes(&world.block);
    for query in ["limit=1000", "limit=1000&sort=name:asc", "limit=3&sort_key=name", "limit=3"] {
        let (mut next, mut names, mut pages) = (format!("/v2/images?{query}"), Vec::new(), 0);
        let mut ids = BTreeSet::new();
        loop {
            let (status, body, bytes) = ask(&routes, "GET", &format!("/image{next}"), "").await;
            assert!(status == 200 && bytes <= (1 << 20) + 4096, "{status} {bytes}");
            let images = body["images"].as_array().unwrap();
            assert!(!images.is_empty(), "{next}");
            ids.extend(images.iter().map(|image| image["id"].as_str().unwrap().to_owned()));
            names.extend(images.iter().map(|image| image["name"].as_str().unwrap().to_owned()));
            pages += 1;
            match body["next"].as_str() {
                Some(link) => link.clone_into(&mut next),
                None => break,
            }
        }
        assert_eq!((ids.len(), names.len()), (40, 40), "each once: {query}");
        assert_eq!(pages, if query.contains("1000") { 3 } else { 14 }, "{query}");
        let is_sorted = names.is_sorted() || query.contains("key") && names.iter().rev().is_sorted();
        assert_eq!(is_sorted, query.contains("sort"), "{query}: {names:?}");
    }
    // One that alone has more is shown all the same.
    let mut large = world.block.images(&me).unwrap().remove(0);
    large.properties = properties(1100);
    world.block.catalog().write(|tx| tx.put(&large)).unwrap();
    let (_, body, _) = ask(&routes, "GET", "/image/v2/images", "").await;
    assert_eq!(body["images"].as_array().unwrap().len(), 1);
    assert!(body["next"].as_str().unwrap().contains(&large.id), "{}", body["next"]);
    assert_eq!(ask(&routes, "GET", "/image/v2/images?marker=none", "").await.0, 400);
    drop(routes);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_of_others_have_their_place_in_lists() {
    let world = World::new().await;
    let (mine, theirs) = (caller("p", Role::Member), caller("q", Role::Member));
    let publish = |id: &str| {
        world.block.edit_image(&admin(), id, |fields| {
            fields.public = true;
            Ok(())
        })
    };
    let mut wanted = Vec::new();
    for n in 0..12 {
        let made = world.block.create_image(if n % 3 == 0 { &mine } else { &theirs }, fields(DiskFormat::Raw)).unwrap();
        let shown = n % 3 == 0 || n % 2 == 0;
        if n % 2 == 0 {
            drop(publish(&made.id).unwrap());
        }
        // Some of one moment, in the order of their ids.
        let image = Image { created_us: 1_000_000 + n / 2, ..world.block.image(&admin(), &made.id).unwrap() };
        world.block.catalog().write(|tx| tx.remove::<Image>(&image.id).and_then(|()| tx.put(&image))).unwrap();
        if shown {
            wanted.push(image);
        }
    }
    wanted.sort_by(|a, b| b.created_us.cmp(&a.created_us).then_with(|| a.id.cmp(&b.id)));
    let ids = |images: &[Image]| images.iter().map(|image| image.id.clone()).collect::<Vec<_>>();
    let listed = |me: &Caller, after: Option<&Image>, most: usize| {
        let mut images = Vec::new();
        let walked = world.block.each_image(me, after, |image| {
            images.push(image);
            if images.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        walked.unwrap();
        ids(&images)
    };
    assert_eq!(ids(&world.block.images(&mine).unwrap()), ids(&wanted));
    for (n, after) in wanted.iter().enumerate() {
        assert_eq!(listed(&mine, Some(after), usize::MAX), ids(&wanted[n + 1..]));
        assert_eq!(listed(&mine, Some(after), 2), ids(&wanted[n + 1..wanted.len().min(n + 3)]));
    }
    assert_eq!(listed(&mine, None, 1), ids(&wanted[..1]));
    assert_eq!(listed(&admin(), None, usize::MAX).len(), 12);
}

/// Lets nothing go on until it is told to.
fn hold_all() -> (Hook, Arc<Semaphore>) {
    let lets = Arc::new(Semaphore::new(0));
    let held = lets.clone();
    let hook: Hook = Arc::new(move |_| {
        let held = held.clone();
        Box::pin(async move { drop(held.acquire().await) })
    });
    (hook, lets)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_fills_four_images_at_once_by_whatever_way() {
    let mut world = World::new().await;
    let mut volumes = Vec::new();
    for name in ["a", "b", "c", "d"] {
        volumes.push(world.volume(name).await.id);
    }
    let (hook, lets) = hold_all();
    world = world.restart(hook).await;
    let (block, mine, theirs) = (&world.block, caller("p", Role::Member), caller("q", Role::Member));
    let new = |me: &Caller| block.create_image(me, fields(DiskFormat::Raw)).unwrap().id;
    let sent = block.receive_image(&mine, &new(&mine), None).await.unwrap();
    for volume in &volumes[..3] {
        drop(block.volume_to_image(&mine, volume, of_volume(DiskFormat::Raw)).await.unwrap());
    }
    let too_many =
        |fault: Fault| assert!(fault.kind == FaultKind::TooMany && fault.message.contains("at most 4"), "{fault}");
    too_many(block.volume_to_image(&mine, &volumes[3], of_volume(DiskFormat::Qcow2)).await.unwrap_err());
    // Nor does an administrator of another project make one more of it.
    let other = caller("q", Role::Admin);
    too_many(block.volume_to_image(&other, &volumes[3], of_volume(DiskFormat::Raw)).await.unwrap_err());
    assert_eq!(world.show(&volumes[3]).status, VolumeStatus::Available);
    let waiting = new(&mine);
    too_many(block.receive_image(&mine, &waiting, None).await.err().unwrap());
    assert_eq!(reserved(&world), Count { in_use: 0, reserved: 4 });
    // Others' are others'.
    let theirs = block.receive_image(&theirs, &new(&theirs), None).await.unwrap();
    for task in block.list_tasks(&admin(), None).await.unwrap() {
        drop(block.cancel_task(&admin(), &task.id).await.unwrap());
    }
    lets.add_permits(1);
    soon(sent.cut_off()).await;
    soon(theirs.cut_off()).await;
    soon(block.settled()).await;
    send(&world, &mine, &waiting, b"mine", None).await.unwrap();
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_of_an_image_is_granted_before_it_grows() {
    let mut world = World::new().await;
    let volume = world.volume("v").await;
    world.write(&volume, 7).await;
    let limit =
        |world: &World, gib| world.block.set_image_quota(&admin(), "p", &[(Resource::ImageGigabytes, gib)]).unwrap();
    // The disk takes one GiB; that is all there is.
    limit(&world, 1);
    let (_, image) = world.block.volume_to_image(&admin(), &volume.id, of_volume(DiskFormat::Qcow2)).await.unwrap();
    soon(world.block.settled()).await;
    assert_eq!(world.block.image(&admin(), &image.id).unwrap().status, ImageStatus::Killed);
    assert_eq!((reserved(&world), world.show(&volume.id).status), (Count::default(), VolumeStatus::Available));
    world.sound().await;
    world.block.delete_image(&admin(), &image.id).await.unwrap();
    // Its file may have one.
    limit(&world, 2);
    let (hook, held) = hold_at(4);
    world = world.restart(hook).await;
    let (_, image) = world.block.volume_to_image(&admin(), &volume.id, of_volume(DiskFormat::Qcow2)).await.unwrap();
    held.came.notified().await;
    {
        let key = Intent::key(Image::KIND, &image.id);
        let mut file = GrantedFile::create(&world.block, &key, &image.id, 1).await.unwrap();
        assert_eq!(reserved(&world), Count { in_use: 0, reserved: 2 });
        let cluster = vec![1; 64 << 10];
        file.write(GIB - (64 << 10), &cluster).await.unwrap();
        let size = async || world.pool.volume_info(&engine_image_file(&image.id)).await.unwrap().size;
        assert_eq!(size().await, GIB);
        let fault = file.write(GIB, &cluster).await.unwrap_err();
        assert_eq!((fault.kind, size().await), (FaultKind::OverLimit, GIB), "{fault}");
        assert_eq!(reserved(&world), Count { in_use: 0, reserved: 2 });
    }
    // What was granted to one that was begun before is no more of it.
    held.go.notify_one();
    soon(world.block.settled()).await;
    assert_eq!(world.block.image(&admin(), &image.id).unwrap().status, ImageStatus::Active);
    assert_eq!(reserved(&world), Count { in_use: 2, reserved: 0 });
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uploads_that_are_refused_anyway_take_no_place() {
    let world = World::new().await;
    let (block, me) = (&world.block, caller("p", Role::Member));
    let free = || block.inner.uploads.available_permits();
    let good = block.create_image(&me, fields(DiskFormat::Raw)).unwrap().id;
    let unsaid = block.create_image(&me, ImageFields::default()).unwrap().id;
    // Somebody asks the pool for room.
    let room = block.room().await.unwrap();
    for (id, length, kind) in [
        ("none", None, FaultKind::NotFound),
        (unsaid.as_str(), None, FaultKind::BadRequest),
        (good.as_str(), Some(u64::MAX), FaultKind::OverLimit),
    ] {
        let fault = soon(block.receive_image(&me, id, length)).await.err().unwrap();
        assert_eq!(fault.kind, kind, "{fault}");
    }
    let mut good = Box::pin(block.receive_image(&me, &good, None));
    assert!(waits(&mut good).await);
    assert_eq!(free(), UPLOADS, "whoever waits has no place");
    drop(room);
    let sending = soon(good).await.unwrap();
    assert_eq!(free(), UPLOADS - 1);
    sending.cut_off().await;
    assert_eq!(free(), UPLOADS);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_given_more_of_an_image_that_is_being_deleted() {
    let mut world = World::new().await;
    let id = image(&world, DiskFormat::Raw, &disk()).await.id;
    let (hook, held) = hold_at(0);
    world = world.restart(hook).await;
    let download = world.block.download(&caller("p", Role::Reader), &id).unwrap().unwrap();
    let mut pieces = pin!(download.pieces());
    assert!(pieces.try_next().await.unwrap().is_some());
    let me = admin();
    let mut deleting = Box::pin(world.block.delete_image(&me, &id));
    assert!(waits(&mut deleting).await);
    held.came.notified().await;
    // All of it is in the pool still.
    let fault = pieces.try_next().await.unwrap_err();
    assert!(fault.kind == FaultKind::Conflict && fault.message.contains("deleted"), "{fault}");
    held.go.notify_one();
    soon(deleting).await.unwrap();
    assert!(world.block.images(&me).unwrap().is_empty());
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_does_not_have_the_key_of_an_offer_waits_for_nothing() {
    let world = World::new().await;
    let volume = world.volume("v").await;
    let (transfer, key) = world.block.create_transfer(&admin(), &volume.id, None, false).unwrap();
    let routes = routes(&world.block);
    let accept = |id: &str, key: &str| {
        let (routes, path) = (routes.clone(), format!("/v3/q/os-volume-transfer/{id}/accept"));
        let body = format!(r#"{{"accept":{{"auth_key":"{key}"}}}}"#);
        async move { ask(&routes, "POST", &path, &body).await.0 }
    };
    // Somebody counts the I/O of all volumes.
    let counting = world.block.inner.counting.lock().await;
    assert_eq!(soon(accept(&transfer.id, "no")).await, 400);
    assert_eq!(soon(accept("none", &key)).await, 404);
    let mut right = Box::pin(accept(&transfer.id, &key));
    assert!(waits(&mut right).await);
    drop(counting);
    assert_eq!(soon(right).await, 202);
    assert_eq!(world.show(&volume.id).project, "q");
    drop(routes);
    world.sound().await;
}
