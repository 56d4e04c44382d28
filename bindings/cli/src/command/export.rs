//! `cairn volume export`: a volume or snapshot becomes a disk image.
//!
//! Invariant: an image shows one moment. A snapshot does; a volume that nobody else can reach does; of any other volume a
//! snapshot is taken first, and deleted at the end whatever happens.

use bytes::Bytes;
use cairn_engine::{ErrorKind, ExtentKind, Target};
use cairn_service::{Client, Failure};
use indicatif::ProgressBar;
use serde::Serialize;
use std::{
    collections::VecDeque,
    path::Path,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::task::JoinHandle;

use super::interrupted;
use crate::{
    args::ExportArgs,
    image::{Destination, PIECE, Sink},
    output::Output,
    progress,
    session::Session,
    size,
};

/// Pieces on their way to the image at a time.
const IN_FLIGHT: usize = 8;

/// What was done, for programs.
#[derive(Serialize)]
struct Exported<'a> {
    target: &'a str,
    file: &'a Path,
    format: &'static str,
    size: u64,
    /// Bytes of stored data.
    data: u64,
    seconds: f64,
}

pub(super) async fn run(session: &Session, args: ExportArgs, output: &Output) -> Result<(), Failure> {
    let client = session.client();
    let target: Target = args.target.parse()?;
    let destination = Destination::choose(&args.file, args.format, args.force)?;
    let format = destination.format();
    let frozen = match &target.snapshot {
        None if session.is_served() => Some(freeze(client, &target.volume).await?),
        _ => None,
    };
    let started = Instant::now();
    let from = frozen.as_deref().unwrap_or(&args.target);
    let outcome = tokio::select! {
        copied = export(client, from, destination, &args, output) => copied,
        failure = interrupted() => Err(failure),
    };
    let thawed = match &frozen {
        Some(snapshot) => client.delete_snapshot(snapshot, false).await,
        None => Ok(()),
    };
    let (size, data) = outcome?;
    if let Err(failure) = thawed {
        output.warn(failure.within(format!("the snapshot {from} that was taken for the export is still there")));
    }
    if matches!(args.file.to_str(), Some("-")) {
        return Ok(());
    }
    let seconds = started.elapsed().as_secs_f64();
    let text = format!(
        "exported {} to {} ({format}): {}, {} of data in {seconds:.1} s",
        args.target,
        args.file.display(),
        size::Bytes(size),
        size::Bytes(data)
    );
    output.result(&Exported { target: &args.target, file: &args.file, format, size, data, seconds }, text)
}

/// Takes a snapshot for the time of the export.
async fn freeze(client: &Client, volume: &str) -> Result<String, Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros());
    let snapshot = format!("{volume}@export-{}-{now}", std::process::id());
    client.create_snapshots(std::slice::from_ref(&snapshot)).await?;
    Ok(snapshot)
}

/// Writes the image; its size, and the bytes of stored data.
async fn export(
    client: &Client,
    from: &str,
    destination: Destination,
    args: &ExportArgs,
    output: &Output,
) -> Result<(u64, u64), Failure> {
    let size = match from.contains('@') {
        true => client.snapshot(from, false).await?.size,
        false => client.volume(from, false).await?.size,
    };
    let mut sink = Sink::create(destination, size).await?;
    let bar = progress::transfer(output, format!("exporting {}", args.target), size);
    let copied = copy(client, from, size, &mut sink, &bar).await;
    bar.finish_and_clear();
    let data = copied?;
    sink.finish().await?;
    Ok((size, data))
}

/// Copies all data, in order, with several reads on their way.
async fn copy(client: &Client, from: &str, size: u64, sink: &mut Sink, bar: &ProgressBar) -> Result<u64, Failure> {
    let mut reads: VecDeque<Read> = VecDeque::new();
    let (mut data, mut at) = (0, Some(0));
    while let Some(offset) = at.filter(|offset| *offset < size) {
        let page = client.extents(from, offset, size - offset).await?;
        for extent in page.extents.iter().filter(|extent| extent.kind == ExtentKind::Data) {
            data += extent.length;
            for (offset, length) in pieces(extent.offset, extent.length) {
                if reads.len() >= IN_FLIGHT {
                    drain_one(&mut reads, sink, bar).await?;
                }
                reads.push_back(Read::start(client, from, offset, length));
            }
        }
        at = page.next;
    }
    while !reads.is_empty() {
        drain_one(&mut reads, sink, bar).await?;
    }
    Ok(data)
}

/// Cuts an extent at multiples of [`PIECE`].
fn pieces(offset: u64, length: u64) -> impl Iterator<Item = (u64, usize)> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        let here = at;
        at = ((here / PIECE as u64 + 1) * PIECE as u64).min(end);
        (here < end).then(|| (here, (at - here) as usize))
    })
}

/// A read on its way; giving it up ends it.
struct Read {
    offset: u64,
    task: JoinHandle<Result<Bytes, Failure>>,
}

impl Read {
    fn start(client: &Client, from: &str, offset: u64, length: usize) -> Self {
        let (client, from) = (client.clone(), from.to_owned());
        Self { offset, task: tokio::spawn(async move { client.read(&from, offset, length).await }) }
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drain_one(reads: &mut VecDeque<Read>, sink: &mut Sink, bar: &ProgressBar) -> Result<(), Failure> {
    let Some(mut read) = reads.pop_front() else { return Ok(()) };
    let data = (&mut read.task).await;
    let data = data.map_err(|error| Failure::new(ErrorKind::Io, format!("a read was cut off: {error}")))??;
    sink.write(read.offset, &data).await?;
    bar.set_position(read.offset + data.len() as u64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_are_cut_at_pieces() {
        const P: u64 = PIECE as u64;
        assert_eq!(pieces(0, 0).count(), 0);
        assert_eq!(pieces(4096, 512).collect::<Vec<_>>(), [(4096, 512)]);
        assert_eq!(pieces(P - 512, P + 1024).collect::<Vec<_>>(), [(P - 512, 512), (P, PIECE), (2 * P, 512)]);
    }
}
