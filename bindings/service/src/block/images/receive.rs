//! Images taken in, while a client sends them.
//!
//! The request hands pieces to the operation, and waits for its end. A client that goes away, or a service that ends, leaves an operation
//! without pieces: it takes back what it has written, and the image waits for its content as before.

use bytes::Bytes;
use cairn_backup::Job;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{gib_of, illegal, not_too_many, store::Store, writable};
use crate::{
    block::{
        Block, Caller,
        tasks::cancelled,
        views::busy,
        work::{self, begin, intent},
    },
    catalog::{Content, Image, Intent, Op, Record, Tx, engine_image, engine_image_file},
    domain::{Claim, DiskFormat, ImageMove, ImageStatus, Move},
    fault::{Answer, Fault, FaultKind},
    image::{Hashing, PIECE, qcow2},
};

/// Pieces between the request and the operation.
const WAITING: usize = 2;
/// How often an operation without pieces looks whether it is to end.
const LOOK: Duration = Duration::from_millis(200);

/// What a client has sent.
pub(super) enum Sent {
    Data(Bytes),
    /// That was all.
    End,
}

/// Where the pieces of an operation come from.
pub(in crate::block) struct Feed {
    pieces: mpsc::Receiver<Sent>,
    outcome: oneshot::Sender<Fault>,
    /// How many bytes come, if that was said.
    length: Option<u64>,
    _place: OwnedSemaphorePermit,
}

/// An upload, on the side of the request. Dropped before [`end`](Self::end), it is cut off.
pub(crate) struct Sending {
    block: Block,
    id: String,
    key: String,
    pieces: mpsc::Sender<Sent>,
    outcome: oneshot::Receiver<Fault>,
    gathered: Vec<u8>,
}

impl Sending {
    /// Takes bytes. Nobody may want them any more: [`end`](Self::end) says why. Answers whether more are wanted.
    pub(crate) async fn data(&mut self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            let room = PIECE - self.gathered.len();
            let (now, later) = data.split_at(room.min(data.len()));
            self.gathered.extend_from_slice(now);
            data = later;
            if self.gathered.len() == PIECE && !self.pass_on().await {
                return false;
            }
        }
        true
    }

    async fn pass_on(&mut self) -> bool {
        let data = std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE));
        self.pieces.send(Sent::Data(data.into())).await.is_ok()
    }

    /// That was all. Answers when the image is active, or is as it was before.
    ///
    /// # Errors
    /// Why it is not active.
    pub(crate) async fn end(mut self) -> Answer<()> {
        if !self.gathered.is_empty() {
            let _wanted = self.pass_on().await;
        }
        // Whoever does not want it has said why.
        drop(self.pieces.send(Sent::End).await);
        drop(self.pieces);
        let outcome = self.outcome.await;
        self.block.ended(&self.key).await;
        let image = self.block.inner.catalog.read().get::<Image>(&self.id)?;
        match image.is_some_and(|image| image.status == ImageStatus::Active) {
            true => Ok(()),
            false => Err(outcome.unwrap_or_else(|_| Fault::conflict("the upload was cut off: send the image again"))),
        }
    }

    /// It is cut off. Answers when the image is as it was before.
    pub(crate) async fn cut_off(self) {
        let Self { block, key, pieces, .. } = self;
        drop(pieces);
        block.ended(&key).await;
    }
}

impl Block {
    /// Begins to take in the bytes of an image; `length`, if it is known.
    pub(crate) async fn receive_image(&self, caller: &Caller, id: &str, length: Option<u64>) -> Answer<Sending> {
        // What is refused anyway waits for nobody and takes no place, of which all projects have few together.
        drop(self.image_to_fill(&self.inner.catalog.read(), caller, id, length)?);
        let first = length.map_or(1, gib_of);
        let room = self.room().await?;
        let full = || Fault::new(FaultKind::Unavailable, "too many images are being sent at the moment: try again");
        let place = self.inner.uploads.clone().try_acquire_owned().map_err(|_| full())?;
        let key = self.change(caller, |tx| {
            let image = self.image_to_fill(tx, caller, id, length)?;
            room.takes(first)?;
            tx.put(&image)?;
            let mut intent = intent(caller, &image.project, Intent::key(Image::KIND, id), Op::ReceiveImage);
            intent.reserved = Claim::image_content(first);
            begin(tx, &intent)?;
            Ok(intent.key)
        })?;
        let (sender, pieces) = mpsc::channel(WAITING);
        let (tell, outcome) = oneshot::channel();
        let feed = Feed { pieces, outcome: tell, length, _place: place };
        drop(self.feeds().insert(key.clone(), feed));
        self.start(key.clone());
        let (block, id, gathered) = (self.clone(), id.to_owned(), Vec::with_capacity(PIECE));
        Ok(Sending { block, id, key, pieces: sender, outcome, gathered })
    }

    /// An image that can be sent now, in the state that says so.
    fn image_to_fill(&self, tx: &Tx<'_>, caller: &Caller, id: &str, length: Option<u64>) -> Answer<Image> {
        let mut image = writable(tx, caller, id)?;
        image.status = ImageMove::Fill.apply(image.status).map_err(|e| illegal(&image, e))?;
        if busy::<Image>(tx, id)? {
            return Err(Fault::conflict(format!("image {id} has an operation under way")));
        }
        if image.format.is_none() || !image.bare {
            let text = "Properties disk_format, container_format must be set prior to saving data.";
            return Err(Fault::bad(text));
        }
        if let Some(length) = length {
            self.image_fits(length)?;
        }
        not_too_many(tx, &image.project)?;
        Ok(image)
    }

    /// Nobody takes in what comes.
    pub(in crate::block) fn forget_feed(&self, key: &str) {
        drop(self.feeds().remove(key));
    }

    /// Takes in what comes. Fails with nothing left in the pool.
    pub(in crate::block) async fn receive(&self, intent: &Intent, job: &Job) -> Answer<Content> {
        let id = intent.object();
        let feed = self.feeds().remove(&intent.key);
        self.clean_image(id).await?;
        let Some(feed) = feed else {
            return Err(Fault::conflict("the upload was cut off when the service ended: send the image again"));
        };
        let Feed { mut pieces, outcome, length, _place } = feed;
        let taken = self.take_in(intent, &mut pieces, length, job).await;
        // Whoever still sends is told so.
        drop(pieces);
        if let Err(fault) = &taken {
            let cleaned = self.clean_image(id).await;
            let told = if self.is_cancelled(&intent.key) { cancelled() } else { fault.clone() };
            // The request may be gone.
            drop(outcome.send(told));
            cleaned?;
        }
        taken
    }

    async fn take_in(
        &self,
        intent: &Intent,
        pieces: &mut mpsc::Receiver<Sent>,
        length: Option<u64>,
        job: &Job,
    ) -> Answer<Content> {
        let image: Image = self.inner.catalog.read().require(intent.object())?;
        let (pool, id) = (&self.inner.pool, image.id.as_str());
        let is_raw = image.format != Some(DiskFormat::Qcow2);
        let name = if is_raw { engine_image(id) } else { engine_image_file(id) };
        let mut granted = length.map_or(1, gib_of);
        let mut store = Store::create(pool, &name, length.unwrap_or(0)).await?;
        self.step(work::IMAGE_BEGUN).await;
        job.set_total(length.unwrap_or(0));
        let (mut size, mut hashing) = (0_u64, Hashing::new());
        while let Some(data) = next(pieces, job).await? {
            if size == 0 && is_raw && qcow2::is_qcow2(&data) {
                return Err(Fault::bad("the data is a qcow2 image: say so (disk_format qcow2)"));
            }
            let end = size + data.len() as u64;
            if length.is_some_and(|length| end > length) {
                return Err(Fault::bad("more bytes came than were announced"));
            }
            self.image_fits(end)?;
            if gib_of(end) > granted {
                self.grant(&intent.key, 1).await?;
                granted += 1;
            }
            let hashed = self.hash(&intent.project, hashing, data.clone(), 1);
            let (hashed, written) = tokio::join!(hashed, store.write_at(size, &data));
            written?;
            hashing = hashed?;
            job.advance(data.len() as u64);
            size = end;
        }
        store.close().await?;
        if size == 0 || length.is_some_and(|length| length != size) {
            return Err(Fault::bad(format!("{size} bytes came, and {} were announced", length.unwrap_or(0).max(1))));
        }
        self.step(work::IMAGE_STORED).await;
        let virtual_size = if is_raw { size } else { self.unpack(intent, id, size, job).await? };
        self.freeze_image(id, !is_raw).await?;
        self.pass(intent).await?;
        let (md5, sha512) = hashing.end();
        let gib = if is_raw { gib_of(size) } else { gib_of(size) + gib_of(virtual_size) };
        Ok(Content { size, virtual_size, md5, sha512, gib })
    }

    /// Adds to the hashes, `times` over, on a thread that may take its time; in turns of a project, so that images together take no more than
    /// some processors, and nobody's wait for all of another project's.
    pub(super) async fn hash(&self, project: &str, mut hashing: Hashing, data: Bytes, times: u64) -> Answer<Hashing> {
        let turn = self.inner.hashing.take(&project.to_owned()).await;
        let work = tokio::task::spawn_blocking(move || {
            // It ends with the work, whether somebody waits for that or not.
            let _turn = turn;
            (0..times).for_each(|_| hashing.add(&data));
            hashing
        });
        work.await.map_err(|e| Fault::internal(format!("hashing was cut off: {e}")))
    }

    /// Writes the disk that is in the file. Answers its size.
    async fn unpack(&self, intent: &Intent, id: &str, size: u64, job: &Job) -> Answer<u64> {
        let pool = &self.inner.pool;
        let file = super::store::Stored::open(pool, &engine_image_file(id), size).await?;
        let mut disk = qcow2::Disk::open(file).await?;
        let virtual_size = disk.size();
        self.image_fits(virtual_size)?;
        self.grant(&intent.key, gib_of(virtual_size)).await?;
        let mut store = Store::create(pool, &engine_image(id), virtual_size).await?;
        let (mut gathered, mut from) = (Vec::with_capacity(PIECE), 0_u64);
        job.set_total(size + virtual_size);
        let mut last = 0;
        loop {
            // Unpacking takes the processor: in turns, which are short whatever the file says.
            let turn = self.inner.hashing.take(&intent.project).await;
            let step = disk.step().await?;
            drop(turn);
            job.check()?;
            job.advance(disk.position() - last);
            last = disk.position();
            let piece = match step {
                qcow2::Step::Data(piece) => piece,
                qcow2::Step::Zeros => continue,
                qcow2::Step::End => break,
            };
            if piece.offset != from + gathered.len() as u64 || gathered.len() + piece.data.len() > PIECE {
                store.write_at(from, &gathered).await?;
                gathered.clear();
                from = piece.offset;
            }
            gathered.extend_from_slice(&piece.data);
        }
        store.write_at(from, &gathered).await?;
        store.close().await?;
        self.step(work::IMAGE_UNPACKED).await;
        Ok(virtual_size)
    }

    /// So many GiB more for an operation, if quota and pool have them.
    pub(super) async fn grant(&self, key: &str, gib: u64) -> Answer<()> {
        let room = self.room().await?;
        room.takes(gib)?;
        self.inner.catalog.write(|tx: &mut Tx<'_>| {
            let mut intent: Intent = tx.require(key)?;
            let more = Claim::image_content(gib);
            tx.reserve(&intent.project, &more)?;
            intent.reserved = intent.reserved.plus(&more);
            tx.put(&intent)
        })
    }
}

/// The next piece; nothing when that was all.
async fn next(pieces: &mut mpsc::Receiver<Sent>, job: &Job) -> Answer<Option<Bytes>> {
    loop {
        job.check()?;
        match tokio::time::timeout(LOOK, pieces.recv()).await {
            Err(_) => {}
            Ok(Some(Sent::Data(data))) => return Ok(Some(data)),
            Ok(Some(Sent::End)) => return Ok(None),
            Ok(None) => return Err(Fault::bad("the upload was cut off: send the image again")),
        }
    }
}
