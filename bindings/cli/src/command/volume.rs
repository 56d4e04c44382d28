//! `cairn volume …`, without import and export.

use cairn_engine::{VolumeInfo, VolumeOptions};
use cairn_service::{Failure, api};

use super::{describe, export, import, with_pool};
use crate::{
    args::{CreateVolume, Global, VolumeCommand},
    output::Output,
    session::Session,
    size::Bytes,
};

pub(super) async fn run(global: &Global, command: VolumeCommand, output: &Output) -> Result<(), Failure> {
    with_pool(global, output, async |session| match command {
        VolumeCommand::Create(args) => create(session, args, output).await,
        VolumeCommand::List { exclusive } => list(session, exclusive, output).await,
        VolumeCommand::Info { name, exclusive } => {
            let volume = session.client().volume(&name, exclusive).await?;
            output.result(&volume, describe::volume(&volume))
        }
        VolumeCommand::Resize { name, size } => {
            let volume = session.client().resize(&name, size).await?;
            told(output, &volume, format!("resized volume {name} to {}", Bytes(volume.size)))
        }
        VolumeCommand::Rename { name, new_name } => {
            let volume = session.client().rename(&name, &new_name).await?;
            told(output, &volume, format!("renamed volume {name} to {}", volume.name))
        }
        VolumeCommand::Set { name, sync, cache } => {
            let mut options = session.client().volume(&name, false).await?.options;
            options.sync = sync.map_or(options.sync, Into::into);
            options.cache = cache.map_or(options.cache, Into::into);
            let volume = session.client().set_options(&name, &options).await?;
            let (sync, cache) = (volume.options.sync, volume.options.cache);
            let text =
                format!("volume {name}: sync {}, cache {}", describe::sync_name(sync), describe::cache_name(cache));
            told(output, &volume, text)
        }
        VolumeCommand::Delete { name, cascade, wait_space } => {
            delete(session, &name, cascade, wait_space, output).await
        }
        VolumeCommand::Import(args) => import::run(session, args, output).await,
        VolumeCommand::Export(args) => export::run(session, args, output).await,
    })
    .await
}

fn told(output: &Output, volume: &VolumeInfo, text: String) -> Result<(), Failure> {
    output.result(volume, text)
}

async fn create(session: &Session, args: CreateVolume, output: &Output) -> Result<(), Failure> {
    let options = VolumeOptions { sync: args.sync.into(), cache: args.cache.into(), ..VolumeOptions::default() };
    let volume = session.client().create_volume(&args.name, args.size, options).await?;
    let text = format!("created volume {}: {}", volume.name, Bytes(volume.size));
    output.result(&volume, text)
}

async fn list(session: &Session, exclusive: bool, output: &Output) -> Result<(), Failure> {
    let volumes = session.client().volumes(exclusive).await?;
    let table = describe::volumes(&volumes, exclusive);
    output.result(&api::Volumes { volumes }, table)
}

async fn delete(
    session: &Session,
    name: &str,
    cascade: bool,
    wait_space: bool,
    output: &Output,
) -> Result<(), Failure> {
    // Without a server nobody would go on giving back the space when this process has ended.
    let wait = wait_space || !session.is_served();
    let deleted = session.client().delete_volume(name, cascade, wait).await?;
    let lines: Vec<String> = deleted.iter().map(|name| format!("deleted {name}")).collect();
    output.result(&api::Deleted { deleted }, lines.join("\n"))
}
