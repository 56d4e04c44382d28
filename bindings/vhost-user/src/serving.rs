//! The server on its reactor: one listening socket for each export, one front-end at a time on each.
//!
//! Invariants: a server is kept by its own tasks only, so it ends with them, whether by [`Serving::stop`] or because the reactor drops
//! them; either way its sockets are removed. A front-end is let in only when everything that the one before it had begun is given back.
//! Exports are made and withdrawn one at a time, and listed when they are there: the list says what is served, but for what is yet to be
//! served again.

use crate::{
    blocking::elsewhere,
    client::{Directory, Record},
    descriptors::{self, Connection, Foreign, Held},
    device::{CacheMode, Device},
    list::List,
    listen::{self, SocketFile},
    mapping::Budget,
    options::Options,
    session::Session,
    source::Source,
    wake::{First, Lock, Signal, first},
    wire::Wire,
};
use cairn_engine::{Error, ErrorKind, LocalPool, Reactor, Result, Target};
use rustix::{
    io::Errno,
    net::{
        SocketFlags, accept_with,
        sockopt::{set_socket_oobinline, set_socket_send_buffer_size},
    },
};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    os::fd::AsFd,
    path::PathBuf,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

/// How long to wait when the system has no descriptor or memory for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Room for replies that a front-end has not taken, in bytes; the kernel makes it twice as much. They stay with whoever has the other end, also
/// after the connection, and the descriptors in them, and count as this process's. A front-end waits for one reply at a time.
const SEND_BUFFER: usize = 8192;

/// How long a socket may be in use before it counts as another server's: of a server that was just killed, the kernel keeps it open until
/// it has finished that server's operations.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(1);
const TAKEOVER_PAUSE: Duration = Duration::from_millis(10);

thread_local! {
    /// The servers of this reactor, by number. Weak: their tasks keep them.
    static SERVERS: RefCell<HashMap<u64, Weak<Serving>>> = RefCell::default();
}

pub(crate) struct Serving {
    id: u64,
    pool: LocalPool,
    /// Where the sockets are.
    place: PathBuf,
    options: Rc<Options>,
    directory: Arc<Directory>,
    list: Arc<List>,
    /// Held while an export and the list change.
    changing: Lock,
    exports: RefCell<BTreeMap<String, Rc<Export>>>,
    next_client: Cell<u64>,
    stopping: Cell<bool>,
    /// Notified when the server is to stop, and when an export is gone.
    changed: Signal,
}

/// A socket, and whom it serves.
struct Export {
    /// What its socket is called: what its volume or snapshot was called when it was made.
    name: String,
    source: Cell<Source>,
    /// Takes no writes. Before it is listed, too: a front-end may be the first.
    read_only: Cell<bool>,
    /// Removed as soon as nobody is to connect any more.
    file: RefCell<Option<SocketFile>>,
    stopping: Cell<bool>,
    /// Whether it is being withdrawn: nobody is let in any more.
    leaving: Cell<bool>,
    /// Whether a front-end is connected, and its socket has not been closed.
    busy: Cell<bool>,
    /// Whether a front-end has still to be finished with.
    draining: Cell<bool>,
    /// Its socket, its front-ends, and what these have sent.
    held: Held,
    /// What they have mapped.
    budget: Arc<Budget>,
    changed: Signal,
}

impl Export {
    fn stop(&self) {
        self.stopping.set(true);
        self.file.take();
        self.changed.notify();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // The thread may be ending, and its table gone before this.
        drop(SERVERS.try_with(|servers| servers.borrow_mut().remove(&self.id)));
    }
}

impl Serving {
    pub(crate) fn start(
        id: u64,
        pool: LocalPool,
        place: PathBuf,
        options: Options,
        directory: Arc<Directory>,
        list: Arc<List>,
    ) {
        let reactor = pool.reactor().clone();
        let serving = Rc::new(Self {
            id,
            pool,
            place,
            options: Rc::new(options),
            directory,
            list,
            changing: Lock::default(),
            exports: RefCell::default(),
            next_client: Cell::new(1),
            stopping: Cell::new(false),
            changed: Signal::default(),
        });
        SERVERS.with_borrow_mut(|servers| servers.insert(id, Rc::downgrade(&serving)));
        // Keeps it while it has no exports.
        let kept = async move { serving.changed.until(|| serving.stopping.get()).await };
        reactor.spawn(kept).detach();
    }

    /// The server of this thread with a number, if it is still there.
    pub(crate) fn find(id: u64) -> Result<Rc<Self>> {
        let found = SERVERS.with_borrow(|servers| servers.get(&id).and_then(Weak::upgrade));
        found.ok_or_else(stopped)
    }

    /// Makes the socket of a volume or snapshot, if there is none yet; where it is.
    pub(crate) async fn export(self: &Rc<Self>, target: &Target, read_only: bool) -> Result<PathBuf> {
        // It must be there now; it is opened for each front-end, so that an unused socket keeps nobody from deleting it.
        drop(self.pool.open(target)?);
        let source = Source::of(&self.pool, target)?;
        let attempt = async || {
            let _changing = self.changing.lock().await;
            // One socket for each, or two guests could write to one disk.
            let listed = self.name_of(source);
            let name = listed.clone().unwrap_or_else(|| target.to_string());
            let (is, wanted) = (self.list.reads_only(source), read_only && matches!(source, Source::Volume(_)));
            if listed.is_some() && is != wanted {
                let text =
                    format!("the socket {name} is for {}: withdraw it first", if is { "reading" } else { "writing" });
                return Err(Error::new(ErrorKind::Exists, text));
            }
            self.try_export(&name, source, wanted).await
        };
        self.patiently(attempt).await
    }

    /// Makes the sockets that the list tells of; what cannot be served, and why.
    pub(crate) async fn restore(self: &Rc<Self>) -> Result<Vec<String>> {
        let there = self.pool.list_volumes().into_iter().map(|volume| volume.id).collect();
        self.change_list(move |list| list.keep_volumes(&there)).await?;
        let mut faults = Vec::new();
        for (name, source) in self.list.exports() {
            match self.patiently(async || self.try_restore(&name, source).await).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                Err(error) => faults.push(format!("vhost-user socket {name}: {error}")),
            }
        }
        Ok(faults)
    }

    async fn try_restore(self: &Rc<Self>, name: &str, source: Source) -> Result<()> {
        let _changing = self.changing.lock().await;
        if self.list.source(name) != Some(source) {
            // It was withdrawn meanwhile.
            return Ok(());
        }
        if source.target(&self.pool).is_some() {
            return self.try_export(name, source, self.list.reads_only(source)).await.map(drop);
        }
        let gone = name.to_owned();
        self.change_list(move |list| list.remove(&gone)).await?;
        Err(Error::new(ErrorKind::NotFound, format!("what was exported as {name} has been deleted")))
    }

    /// Which export serves this, or is to.
    fn name_of(&self, source: Source) -> Option<String> {
        let exports = self.exports.borrow();
        let served = exports.values().find(|export| export.source.get() == source).map(|export| export.name.clone());
        let listed = || self.list.exports().into_iter().find(|(_, listed)| *listed == source).map(|(name, _)| name);
        served.or_else(listed)
    }

    /// The name of the export that is meant: of what is called so now, or else its own.
    fn resolve(&self, target: &Target) -> Result<String> {
        let name = target.to_string();
        let source = Source::of(&self.pool, target).ok();
        if let Some(found) = source.and_then(|source| self.name_of(source)) {
            return Ok(found);
        }
        let other = self.list.source(&name).and_then(|source| source.target(&self.pool));
        match (source, other) {
            (Some(_), Some(other)) => {
                let text = format!("{name} has no socket: the one that is called so serves {other}, withdraw that");
                Err(Error::new(ErrorKind::NotFound, text))
            }
            _ => Ok(name),
        }
    }

    /// Tries again where a socket is in use, for as long as it may be that of a server that was just killed.
    async fn patiently<T>(&self, attempt: impl AsyncFn() -> Result<T>) -> Result<T> {
        let started = self.pool.reactor().sleep(TAKEOVER_LIMIT);
        let mut limit = std::pin::pin!(started);
        loop {
            match attempt().await {
                Err(error) if error.kind() == ErrorKind::Busy => {
                    if let First::A(()) = first(limit.as_mut(), self.pool.reactor().sleep(TAKEOVER_PAUSE)).await {
                        return Err(error);
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Makes the socket of an export and lists it: both or neither.
    async fn try_export(self: &Rc<Self>, name: &str, source: Source, read_only: bool) -> Result<PathBuf> {
        if self.stopping.get() {
            return Err(stopped());
        }
        let there = self.exports.borrow().get(name).cloned();
        let (export, path, before) = match there {
            Some(export) => {
                let path = self.socket_of(&export, source)?;
                let before = (export.source.replace(source), export.read_only.replace(read_only));
                (export, path, Some(before))
            }
            None => {
                let (export, path) = self.listen(name, source, read_only)?;
                (export, path, None)
            }
        };
        let listed = name.to_owned();
        let Err(error) = self.change_list(move |list| list.put(&listed, source, read_only)).await else {
            return Ok(path);
        };
        match before {
            Some((source, read_only)) => {
                export.source.set(source);
                export.read_only.set(read_only);
            }
            None => {
                export.stop();
                self.gone(&export).await;
            }
        }
        Err(error)
    }

    /// Changes the list, which waits for a file system.
    async fn change_list(&self, change: impl FnOnce(&List) -> Result<()> + Send + 'static) -> Result<()> {
        let list = Arc::clone(&self.list);
        let changed = elsewhere(move || change(&list)).await;
        changed.map_err(|e| Error::io("the list of exports", e))?
    }

    fn listen(self: &Rc<Self>, name: &str, source: Source, read_only: bool) -> Result<(Rc<Export>, PathBuf)> {
        let path = self.place.join(format!("{name}.sock"));
        let (listener, file) = SocketFile::bind(path.clone())?;
        let export = Rc::new(Export {
            name: name.to_owned(),
            source: Cell::new(source),
            read_only: Cell::new(read_only),
            file: RefCell::new(Some(file)),
            stopping: Cell::new(false),
            leaving: Cell::new(false),
            busy: Cell::new(false),
            draining: Cell::new(false),
            held: Held::default(),
            budget: Arc::default(),
            changed: Signal::default(),
        });
        let _none = self.exports.borrow_mut().insert(name.to_owned(), Rc::clone(&export));
        self.directory.add(name, path.clone());
        // Foreign for what is in its queue: connections, with what was sent over them.
        let listener = Rc::new(Foreign::new(listener, &export.held));
        let accepting = Accepting { server: Rc::clone(self), export: Rc::clone(&export) };
        self.pool.reactor().spawn(accept_front_ends(accepting, listener)).detach();
        Ok((export, path))
    }

    /// The socket that is there already, if it is for the same, or what it served is gone and this has its name.
    fn socket_of(&self, export: &Export, source: Source) -> Result<PathBuf> {
        let name = &export.name;
        let served = export.source.get();
        if let Some(other) = served.target(&self.pool).filter(|_| served != source) {
            let text = format!("the socket {name} serves {other}, which was called so: withdraw that first");
            return Err(Error::new(ErrorKind::Exists, text));
        }
        let busy = || Error::new(ErrorKind::Busy, format!("the socket of {name} is being removed: try again"));
        export.file.borrow().as_ref().map(|file| file.path().to_owned()).ok_or_else(busy)
    }

    /// Removes a socket, and lets go of who is connected to it, if that was meant.
    pub(crate) async fn withdraw(&self, target: &Target, force: bool) -> Result<()> {
        let changing = self.changing.lock().await;
        let name = self.resolve(target)?;
        let listed = name.clone();
        let forget = self.change_list(move |list| list.remove(&listed));
        let Some(export) = self.exports.borrow().get(&name).cloned() else {
            // One that could not be served again, and is not wanted any more.
            let not_there = || Error::new(ErrorKind::NotFound, format!("{name} has no socket here"));
            let _source = self.list.source(&name).ok_or_else(not_there)?;
            return forget.await;
        };
        if export.busy.get() && !force {
            let text =
                format!("{name} is the disk of a virtual machine that runs: take it from that first, or use force");
            return Err(Error::new(ErrorKind::Busy, text));
        }
        export.leaving.set(true);
        if let Err(error) = forget.await {
            export.leaving.set(false);
            return Err(error);
        }
        export.stop();
        drop(changing);
        self.gone(&export).await;
        Ok(())
    }

    /// Waits until an export is gone. (Another one may have its name by then.)
    async fn gone(&self, export: &Rc<Export>) {
        let same = |there: &Rc<Export>| Rc::ptr_eq(there, export);
        self.changed.until(|| !self.exports.borrow().get(&export.name).is_some_and(same)).await;
    }

    /// Ends the server; returns when the last request is given back.
    pub(crate) async fn stop(&self) {
        self.stopping.set(true);
        self.exports.borrow().values().for_each(|export| export.stop());
        self.changed.notify();
        self.changed.until(|| self.exports.borrow().is_empty()).await;
        // The next server reads the list.
        drop(self.changing.lock().await);
    }

    fn welcome(self: &Rc<Self>, export: &Rc<Export>, socket: Connection) {
        if export.leaving.get() {
            return;
        }
        // The volume may have been deleted since, or have nobody who fills it: then the front-end is shown the door, and the operator told.
        let source = export.source.get();
        let gone = || Error::new(ErrorKind::NotFound, format!("what was exported as {} has been deleted", export.name));
        let opened = source.target(&self.pool).ok_or_else(gone).and_then(|target| self.pool.open(&target));
        let volume = match opened {
            Ok(volume) => volume,
            Err(error) => return self.directory.refuse(&export.name, error.to_string()),
        };
        let id = self.next_client.replace(self.next_client.get() + 1);
        let read_only = self.options.read_only || export.read_only.get() || volume.is_read_only();
        let record = Arc::new(Record::new(id, listen::peer(&socket), read_only));
        let reactor = self.pool.reactor().clone();
        let options = Rc::clone(&self.options);
        let cache = CacheMode::new(source, Arc::clone(&self.list));
        let budget = Arc::clone(&export.budget);
        let device = Device::new(volume, reactor.clone(), &export.name, options, Arc::clone(&record), cache, budget);
        self.directory.set_client(&export.name, Some(record));
        export.busy.set(true);
        export.draining.set(true);
        let served = Served { server: Rc::clone(self), export: Rc::clone(export) };
        reactor.spawn(serve_front_end(served, Rc::new(device), Rc::new(socket))).detach();
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Closed, "the vhost-user server has been stopped")
}

/// Held by a front-end's task.
struct Served {
    server: Rc<Serving>,
    export: Rc<Export>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.export.busy.set(false);
        self.export.draining.set(false);
        self.server.directory.set_client(&self.export.name, None);
        self.export.changed.notify();
    }
}

async fn serve_front_end(served: Served, device: Rc<Device>, socket: Rc<Connection>) {
    let wire = Wire::new(device.reactor.clone(), Rc::clone(&socket));
    let export = &served.export;
    let session = Session::new(device);
    let stopped = async || export.changed.until(|| export.stopping.get()).await;
    session.serve(wire, stopped, || export.busy.set(false)).await;
}

/// Held by an export's accepting task: the export is gone when this is.
struct Accepting {
    server: Rc<Serving>,
    export: Rc<Export>,
}

impl Drop for Accepting {
    fn drop(&mut self) {
        let Self { server, export } = self;
        export.stop();
        server.exports.borrow_mut().remove(&export.name);
        server.directory.remove(&export.name);
        server.changed.notify();
    }
}

/// The next connection, once the system and the export have a descriptor for it.
async fn accept(reactor: &Reactor, listener: &Rc<Foreign>, held: &Held) -> std::io::Result<Connection> {
    loop {
        while !held.has_room() {
            reactor.sleep(ACCEPT_PAUSE).await;
        }
        let _events = reactor.poll_held(listener, libc::POLLIN).await?;
        match accept_with(listener.as_fd(), SocketFlags::CLOEXEC) {
            Ok(socket) => {
                // Else the kernel throws an urgent byte away when it is met, and closes here what came with it.
                let is_set = set_socket_oobinline(&socket, true).is_ok();
                // With more room than that it works as well.
                set_socket_send_buffer_size(&socket, SEND_BUFFER).ok();
                let connection = Connection::new(socket, held);
                if is_set {
                    return Ok(connection);
                }
            }
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

async fn accept_front_ends(accepting: Accepting, listener: Rc<Foreign>) {
    let Accepting { server, export } = &accepting;
    let reactor = server.pool.reactor();
    while !export.stopping.get() {
        let stopped = || export.changed.until(|| export.stopping.get());
        match first(stopped(), accept(reactor, &listener, &export.held)).await {
            First::A(()) => break,
            // One at a time: two guests that write to one disk destroy it. At once, or it would wait for an answer that never comes.
            First::B(Ok(socket)) if export.busy.get() => drop(socket),
            First::B(Ok(socket)) => {
                // The one before is gone, but requests that it left may be under way.
                export.changed.until(|| !export.draining.get() || export.stopping.get()).await;
                if !export.stopping.get() {
                    server.welcome(export, socket);
                }
            }
            First::B(Err(e)) if listen::is_lasting(&e) => break,
            First::B(Err(_)) => {
                let (First::A(()) | First::B(())) = first(stopped(), reactor.sleep(ACCEPT_PAUSE)).await;
            }
        }
    }
    export.stop();
    // Deaf at once: the socket may be held for longer than this task.
    descriptors::deafen(&listener);
    drop(listener);
    export.changed.until(|| !export.draining.get()).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_engine::{Pool, PoolOptions, VolumeOptions};
    use pollster::block_on;
    use std::{future::poll_fn, task::Poll};

    #[test]
    fn who_withdraws_waits_for_that_export_and_for_no_later_one() {
        let directory = tempfile::tempdir().unwrap();
        let (path, place) = (directory.path().join("p.cairn"), directory.path().to_owned());
        let pool = block_on(Pool::create(path, PoolOptions::new().size(64 << 20))).unwrap();
        drop(block_on(pool.create_volume("db", 1 << 20, VolumeOptions::default())).unwrap());
        let withdrawn = block_on(pool.run(move |local| async move {
            let (id, list) = (u64::MAX, Arc::new(List::open(&place, "aa".into()).unwrap()));
            let reactor = local.reactor().clone();
            Serving::start(id, local, place, Options::default(), Arc::default(), list);
            let (serving, db) = (Serving::find(id).unwrap(), "db".parse::<Target>().unwrap());
            let _path = serving.export(&db, false).await.unwrap();
            let withdrawing = reactor.spawn({
                let (serving, db) = (Rc::clone(&serving), db.clone());
                async move { serving.withdraw(&db, false).await }
            });
            // Made again as soon as it is gone, before whoever waits for that has looked.
            poll_fn(|cx| match serving.exports.borrow().is_empty() {
                true => Poll::Ready(()),
                false => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            })
            .await;
            let _path = serving.export(&db, false).await.unwrap();
            let ended = match first(withdrawing, reactor.sleep(Duration::from_secs(30))).await {
                First::A(withdrawn) => withdrawn.is_ok(),
                First::B(()) => false,
            };
            assert_eq!(serving.list.exports().len(), 1);
            serving.stop().await;
            ended
        }));
        assert!(withdrawn.unwrap());
        block_on(pool.close()).unwrap();
    }
}
