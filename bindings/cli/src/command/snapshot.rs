//! `cairn snapshot …` and `cairn clone`.

use cairn_engine::{ErrorKind, ExtentKind, Target};
use cairn_service::{Failure, api};

use super::{describe, with_pool};
use crate::{
    args::{CloneArgs, DiffArgs, Global, SnapshotCommand},
    output::Output,
    session::Session,
    size::Bytes,
};

pub(super) async fn run(global: &Global, command: SnapshotCommand, output: &Output) -> Result<(), Failure> {
    with_pool(global, output, async |session| match command {
        SnapshotCommand::Create { targets } => {
            let snapshots = session.client().create_snapshots(&targets).await?;
            let names: Vec<String> =
                snapshots.iter().map(|s| format!("created snapshot {}", describe::full_name(s))).collect();
            output.result(&api::Snapshots { snapshots }, names.join("\n"))
        }
        SnapshotCommand::List { volume, exclusive } => {
            let snapshots = session.client().snapshots(volume.as_deref(), exclusive).await?;
            let table = describe::snapshots(&snapshots, exclusive);
            output.result(&api::Snapshots { snapshots }, table)
        }
        SnapshotCommand::Delete { target, wait_space } => delete(session, &target, wait_space, output).await,
        SnapshotCommand::Diff(args) => diff(session, &args, output).await,
        SnapshotCommand::Revert { target, force } => revert(session, &target, force, output).await,
    })
    .await
}

pub(super) async fn clone(global: &Global, args: CloneArgs, output: &Output) -> Result<(), Failure> {
    with_pool(global, output, async |session| {
        let volume = session.client().clone_volume(&args.snapshot, &args.name, args.size).await?;
        let text = format!("cloned {} to volume {}: {}", args.snapshot, volume.name, Bytes(volume.size));
        output.result(&volume, text)
    })
    .await
}

async fn delete(session: &Session, target: &str, wait_space: bool, output: &Output) -> Result<(), Failure> {
    // Without a server nobody would go on giving back the space when this process has ended.
    session.client().delete_snapshot(target, wait_space || !session.is_served()).await?;
    output.result(&api::Deleted { deleted: vec![target.to_owned()] }, format!("deleted {target}"))
}

async fn revert(session: &Session, target: &str, force: bool, output: &Output) -> Result<(), Failure> {
    let Target { volume, snapshot: Some(snapshot) } = target.parse()? else {
        let text = format!("\"{target}\" names a volume: write VOLUME@SNAPSHOT, the snapshot to go back to");
        return Err(Failure::new(ErrorKind::Invalid, text));
    };
    let volume = session.client().revert(&volume, &snapshot, force).await?;
    output.result(&volume, format!("reverted volume {} to {target}: {}", volume.name, Bytes(volume.size)))
}

/// Prints page by page, so that a difference of any length needs no memory.
async fn diff(session: &Session, args: &DiffArgs, output: &Output) -> Result<(), Failure> {
    let mut page = session.client().diff(Some(&args.from), &args.to, 0).await?;
    let mut report = DiffReport::begin(args, output)?;
    loop {
        report.page(&page.extents)?;
        match page.next {
            Some(next) => page = session.client().diff(Some(&args.from), &args.to, next).await?,
            None => return report.end(),
        }
    }
}

/// A difference on its way to standard output.
struct DiffReport<'a> {
    output: &'a Output,
    extents: u64,
    data: u64,
    hole: u64,
}

impl<'a> DiffReport<'a> {
    fn begin(args: &DiffArgs, output: &'a Output) -> Result<Self, Failure> {
        let head = if output.is_json() {
            format!("{{\"from\":{},\"to\":{},\"extents\":[", quoted(&args.from), quoted(&args.to))
        } else {
            format!("{:>16}  {:>16}  KIND\n", "OFFSET", "LENGTH")
        };
        output.raw(&head)?;
        Ok(Self { output, extents: 0, data: 0, hole: 0 })
    }

    fn page(&mut self, extents: &[cairn_engine::Extent]) -> Result<(), Failure> {
        let mut text = String::new();
        for extent in extents {
            let (kind, sum) = match extent.kind {
                ExtentKind::Data => ("data", &mut self.data),
                ExtentKind::Hole => ("hole", &mut self.hole),
            };
            *sum += extent.length;
            text += &if self.output.is_json() {
                let comma = if self.extents > 0 { "," } else { "" };
                format!("{comma}{{\"offset\":{},\"length\":{},\"kind\":\"{kind}\"}}", extent.offset, extent.length)
            } else {
                format!("{:>16}  {:>16}  {kind}\n", extent.offset, extent.length)
            };
            self.extents += 1;
        }
        self.output.raw(&text)
    }

    fn end(self) -> Result<(), Failure> {
        let total = self.data + self.hole;
        self.output.raw(&if self.output.is_json() {
            format!("],\"data\":{},\"hole\":{},\"total\":{total}}}\n", self.data, self.hole)
        } else {
            format!(
                "{} extents, {} differ: {} data, {} holes\n",
                self.extents,
                Bytes(total),
                Bytes(self.data),
                Bytes(self.hole)
            )
        })
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
