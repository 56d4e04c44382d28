//! `cairn volume import`: a disk image becomes a volume.
//!
//! Invariant: the volume exists only when the whole image is in it and committed; what was begun and not ended is deleted.

use cairn_engine::{ErrorKind, MIB, SECTOR, VolumeInfo, VolumeOptions};
use cairn_service::{Client, Failure};
use indicatif::ProgressBar;
use serde::Serialize;
use std::time::Instant;
use tokio::task::JoinSet;

use super::interrupted;
use crate::{
    args::ImportArgs,
    image::{Piece, Source},
    output::Output,
    progress,
    session::Session,
    size::Bytes,
};

/// Pieces on their way to the volume at a time.
const IN_FLIGHT: usize = 8;

/// Writes on their way.
type Writes = JoinSet<Result<(), Failure>>;

/// What was done, for programs.
#[derive(Serialize)]
struct Imported {
    volume: VolumeInfo,
    format: &'static str,
    /// Bytes of the image that are not zero.
    data: u64,
    seconds: f64,
}

pub(super) async fn run(session: &Session, args: ImportArgs, output: &Output) -> Result<(), Failure> {
    let client = session.client();
    let mut source = Source::open(&args.file, args.format, args.allow_backing).await?;
    let size = size_for(&source, args.size)?;
    let options = VolumeOptions { sync: args.sync.into(), cache: args.cache.into(), ..VolumeOptions::default() };
    client.create_volume(&args.name, size, options).await?;
    let started = Instant::now();
    let bar = progress::transfer(output, format!("importing {}", args.name), source.size().unwrap_or(size));
    let mut writes = Writes::new();
    let outcome = tokio::select! {
        copied = copy(client, &mut source, &mut writes, (&args.name, size), &bar) => copied,
        failure = interrupted() => Err(failure),
    };
    // Whatever came of it: a volume that is still being written to cannot be deleted.
    while writes.join_next().await.is_some() {}
    bar.finish_and_clear();
    let data = match outcome {
        Ok(data) => data,
        Err(failure) => return Err(give_up(session, &args.name, failure).await),
    };
    let volume = client.volume(&args.name, false).await?;
    let seconds = started.elapsed().as_secs_f64();
    let text = format!(
        "imported {} ({}) as volume {}: {}, {} of data in {seconds:.1} s",
        args.file.display(),
        source.format(),
        args.name,
        Bytes(size),
        Bytes(data)
    );
    output.result(&Imported { volume, format: source.format(), data, seconds }, text)
}

/// The image's size in whole sectors and not below the smallest volume, unless more was asked for.
fn size_for(source: &Source, asked: Option<u64>) -> Result<u64, Failure> {
    match (source.size(), asked) {
        (None, None) => Err(Failure::new(
            ErrorKind::Invalid,
            "standard input does not tell how long the image is: give the volume's --size",
        )),
        (Some(image), Some(asked)) if asked < image => Err(Failure::new(
            ErrorKind::Invalid,
            format!(
                "the image is {} ({image} bytes) and does not fit into {} ({asked} bytes)",
                Bytes(image),
                Bytes(asked)
            ),
        )),
        (_, Some(asked)) => Ok(asked),
        (Some(image), None) => match image.max(MIB).checked_next_multiple_of(SECTOR) {
            Some(size) => Ok(size),
            None => {
                Err(Failure::new(ErrorKind::Invalid, format!("an image of {image} bytes is longer than any volume")))
            }
        },
    }
}

/// Copies the image into the volume of that name and size, and commits it; bytes that were not zero.
async fn copy(
    client: &Client,
    source: &mut Source,
    writes: &mut Writes,
    (name, size): (&str, u64),
    bar: &ProgressBar,
) -> Result<u64, Failure> {
    let mut data = 0;
    while let Some(Piece { offset, data: piece }) = source.next().await? {
        if offset + piece.len() as u64 > size {
            let text = format!("the image is longer than the volume's {} ({size} bytes)", Bytes(size));
            return Err(Failure::new(ErrorKind::Invalid, text));
        }
        data += piece.len() as u64;
        if writes.len() >= IN_FLIGHT {
            finished(writes.join_next().await)?;
        }
        let (client, name) = (client.clone(), name.to_owned());
        writes.spawn(async move { client.write(&name, offset, piece).await });
        // Reading an image does not wait for anything: let the writes begin.
        tokio::task::yield_now().await;
        bar.set_position(source.position());
    }
    while let Some(write) = writes.join_next().await {
        finished(Some(write))?;
    }
    client.flush(name).await?;
    Ok(data)
}

fn finished(write: Option<Result<Result<(), Failure>, tokio::task::JoinError>>) -> Result<(), Failure> {
    match write {
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) => Err(Failure::new(ErrorKind::Io, format!("a write was cut off: {error}"))),
        None => Ok(()),
    }
}

/// Deletes what was begun. A failure of that, too, is told.
async fn give_up(session: &Session, name: &str, failure: Failure) -> Failure {
    match session.client().delete_volume(name, false, !session.is_served()).await {
        Ok(_) => failure.within(format!("volume {name} was not imported")),
        Err(second) => failure.within(format!("volume {name} is incomplete and could not be deleted ({second})")),
    }
}
