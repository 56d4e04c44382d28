//! Images over the end of the service. Who sends one is gone then: it waits for its content again, or has all of it.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use super::{
    boundaries::{Scenario, scenarios},
    images::{bytes, content, disk, fields, image, of, of_image, of_volume, packed, send, told},
    world::{World, admin},
};
use crate::{
    catalog::{Image, Volume},
    domain::{DiskFormat, ImageStatus, VolumeStatus},
};

/// An upload.
#[derive(Clone, Copy, Debug)]
struct Upload(DiskFormat);

impl Upload {
    fn sent(self) -> Vec<u8> {
        if self.0 == DiskFormat::Raw { disk() } else { packed(&disk()) }
    }
}

impl Scenario for Upload {
    type Before = Image;

    async fn prepare(self, world: &World) -> Image {
        world.block.create_image(&admin(), fields(self.0)).unwrap()
    }

    async fn begin(self, world: &World, before: &Image) -> String {
        let mut sending = world.block.receive_image(&admin(), &before.id, None).await.unwrap();
        let sent = self.sent();
        drop(tokio::spawn(async move {
            let _wanted = sending.data(&sent).await;
            drop(sending.end().await);
        }));
        before.id.clone()
    }

    async fn check(self, world: &World, id: &str, _before: &Image) {
        let image = world.block.image(&admin(), id).unwrap();
        if image.status == ImageStatus::Queued {
            assert_eq!(image.content, None);
            let stored = world.pool.volumes(false).await.unwrap();
            assert!(stored.is_empty(), "{stored:?}");
            send(world, &admin(), id, &self.sent(), None).await.unwrap();
        }
        let image = world.block.image(&admin(), id).unwrap();
        assert_eq!((image.status, of(&image.content.unwrap())), (ImageStatus::Active, told(&self.sent())));
        assert!(bytes(world, id).await == self.sent());
        world.sound().await;
    }
}

/// What needs no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    OfVolume(DiskFormat),
    ToVolume,
    Delete,
}

impl Scenario for Other {
    type Before = (Volume, Option<Image>);

    async fn prepare(self, world: &World) -> Self::Before {
        let volume = world.volume("v").await;
        world.write(&volume, 7).await;
        let made = matches!(self, Self::ToVolume | Self::Delete);
        let image = if made { Some(image(world, DiskFormat::Qcow2, &packed(&disk())).await) } else { None };
        (volume, image)
    }

    async fn begin(self, world: &World, (volume, image): &Self::Before) -> String {
        let (block, me) = (&world.block, admin());
        let id = || image.as_ref().unwrap().id.clone();
        match self {
            Self::OfVolume(format) => {
                let (volume, image) = block.volume_to_image(&me, &volume.id, of_volume(format)).await.unwrap();
                assert_eq!((volume.status, image.status), (VolumeStatus::Uploading, ImageStatus::Saving));
                image.id
            }
            Self::ToVolume => block.create_volume(&me, of_image(&id(), 1)).await.unwrap().id,
            Self::Delete => {
                let id = id();
                {
                    // Its first turn begins it; it goes on without its caller.
                    let mut deleting = pin!(block.delete_image(&me, &id));
                    let _ended = poll_fn(|context| Poll::Ready(deleting.as_mut().poll(context).is_ready())).await;
                }
                id
            }
        }
    }

    async fn check(self, world: &World, id: &str, (volume, _): &Self::Before) {
        match self {
            Self::OfVolume(format) => {
                let image = world.block.image(&admin(), id).unwrap();
                assert_eq!(image.status, ImageStatus::Active);
                let has = image.content.unwrap();
                assert_eq!(has.virtual_size, 1 << 30);
                assert_eq!(world.show(&volume.id).status, VolumeStatus::Available);
                if format == DiskFormat::Qcow2 {
                    let given = bytes(world, id).await;
                    assert!(of(&has) == told(&given) && has.size < 1 << 20, "{has:?}");
                }
                let copy = world.made(of_image(id, 1)).await;
                assert_eq!(world.first_byte(&copy.id).await, 7);
            }
            Self::ToVolume => {
                assert_eq!(world.show(id).status, VolumeStatus::Available);
                let disk = disk();
                assert!(content(world, &world.show(id), disk.len()).await == disk);
            }
            Self::Delete => assert!(world.block.images(&admin()).unwrap().is_empty()),
        }
    }
}

scenarios! {
    upload_raw: Upload(DiskFormat::Raw), 6;
    upload_qcow2: Upload(DiskFormat::Qcow2), 7;
    raw_image_of_a_volume: Other::OfVolume(DiskFormat::Raw), 7;
    qcow2_image_of_a_volume: Other::OfVolume(DiskFormat::Qcow2), 9;
    volume_of_an_image: Other::ToVolume, 4;
    delete_image: Other::Delete, 3;
}
