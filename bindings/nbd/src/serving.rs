//! The server on its reactor: accepting clients, and stopping.
//!
//! Invariants: a server is kept by its own tasks only, so it ends with them, whether by [`Serving::stop`] or because the reactor
//! drops them; either way its socket is removed. Tasks that only another task of the server could wake (they wait for room,
//! or for replies) are woken when the accepting task is dropped, so that a stopping reactor finds and drops them, too.

use crate::{
    aside::Closing,
    client::{Directory, Record},
    connection::Connection,
    listen::Address,
    options::Options,
    session::serve_client,
    socket::{self, Socket},
    tls::Acceptor,
    wake::{First, Signal, first},
};
use cairn_engine::{Error, IoBuf, LocalPool, Reactor, Result};
use rustix::{
    io::Errno,
    net::{Shutdown, shutdown},
};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    pin::pin,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

/// How long to wait when the system has no descriptor or memory for a new connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

thread_local! {
    /// The servers of this reactor, by number. Weak: their tasks keep them.
    static SERVERS: RefCell<HashMap<u64, Weak<Serving>>> = RefCell::default();
}

pub(crate) struct Serving {
    id: u64,
    pub(crate) pool: LocalPool,
    address: Address,
    pub(crate) options: Rc<Options>,
    pub(crate) acceptor: Option<Acceptor>,
    directory: Arc<Directory>,
    pub(crate) stopping: Cell<bool>,
    /// Closing it ends the accepting task, which takes it away.
    accepting: RefCell<Option<UnixStream>>,
    clients: RefCell<BTreeMap<u64, Client>>,
    next_client: Cell<u64>,
    /// Notified when the accepting task has ended and when a client is gone.
    changed: Signal,
}

struct Client {
    socket: Rc<Socket>,
    /// What it has opened, from the answer on that tells it so.
    opened: Option<String>,
    /// Once it is past its handshake.
    connection: Option<Weak<Connection>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.remove_socket();
        // The thread may be ending, and its table gone before this.
        drop(SERVERS.try_with(|servers| servers.borrow_mut().remove(&self.id)));
    }
}

/// A client's place in the server; leaving frees it.
pub(crate) struct Place {
    pub(crate) server: Rc<Serving>,
    id: u64,
}

impl Place {
    /// The client holds this volume or snapshot open, and is about to be told so.
    pub(crate) fn opened(&self, target: &str) {
        if let Some(client) = self.server.clients.borrow_mut().get_mut(&self.id) {
            client.opened = Some(target.to_owned());
        }
    }

    /// The client is past its handshake.
    pub(crate) fn entered(&self, connection: &Rc<Connection>) {
        if let Some(client) = self.server.clients.borrow_mut().get_mut(&self.id) {
            client.connection = Some(Rc::downgrade(connection));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.server.clients.borrow_mut().remove(&self.id);
        self.server.directory.remove(self.id);
        self.server.changed.notify();
    }
}

/// Held by the accepting task: what happens when it ends, or is dropped with the reactor.
struct Accepting(Rc<Serving>);

impl Drop for Accepting {
    fn drop(&mut self) {
        let Self(server) = self;
        server.accepting.take();
        server.changed.notify();
        let connections =
            server.clients.borrow().values().filter_map(|client| client.connection.clone()).collect::<Vec<_>>();
        connections.iter().filter_map(Weak::upgrade).for_each(|connection| connection.wake_all());
    }
}

impl Serving {
    pub(crate) fn start(
        id: u64,
        pool: LocalPool,
        listener: OwnedFd,
        address: Address,
        options: Options,
        acceptor: Option<Acceptor>,
        directory: Arc<Directory>,
    ) -> Result<()> {
        let (ours, theirs) = UnixStream::pair().map_err(|e| Error::io("cannot make a socket pair", e))?;
        let reactor = pool.reactor().clone();
        let serving = Rc::new(Self {
            id,
            pool,
            address,
            options: Rc::new(options),
            acceptor,
            directory,
            stopping: Cell::new(false),
            accepting: RefCell::new(Some(ours)),
            clients: RefCell::default(),
            next_client: Cell::new(1),
            changed: Signal::default(),
        });
        SERVERS.with_borrow_mut(|servers| servers.insert(id, Rc::downgrade(&serving)));
        reactor.spawn(accept_clients(Accepting(serving), listener, Rc::new(theirs.into()))).detach();
        Ok(())
    }

    /// The server of this thread with a number, if it still runs.
    pub(crate) fn find(id: u64) -> Option<Rc<Self>> {
        SERVERS.with_borrow(|servers| servers.get(&id).and_then(Weak::upgrade))
    }

    fn remove_socket(&self) {
        if let Address::Unix(path) = &self.address {
            path.remove();
        }
    }

    fn welcome(self: &Rc<Self>, socket: Socket) {
        if self.clients.borrow().len() >= self.options.max_clients {
            // Closed at once: a client that waited for a place could wait for ever.
            return;
        }
        let id = self.next_client.replace(self.next_client.get() + 1);
        let record = Arc::new(Record::new(socket::prepare(&socket)));
        let socket = Rc::new(socket);
        self.clients.borrow_mut().insert(id, Client { socket: Rc::clone(&socket), opened: None, connection: None });
        self.directory.add(id, Arc::clone(&record));
        let place = Place { server: Rc::clone(self), id };
        self.pool.reactor().spawn(serve_client(place, socket, record)).detach();
    }

    /// Cuts off the clients that have this volume or snapshot open; returns when they have let go of it.
    pub(crate) async fn cut_off(self: Rc<Self>, target: &str) {
        let connection = |client: &Client| client.connection.as_ref().and_then(Weak::upgrade);
        // Also those that do not take the answer with which they enter.
        let has_it = |client: &Client| match connection(client) {
            Some(connection) => connection.volume.name() == target,
            None => client.opened.as_deref() == Some(target),
        };
        let gone: Vec<u64> = {
            let clients = self.clients.borrow();
            let theirs = clients.iter().filter(|(_, client)| has_it(client));
            theirs
                .map(|(&id, client)| {
                    shutdown(&client.socket, Shutdown::Both).ok();
                    id
                })
                .collect()
        };
        self.changed.until(|| gone.iter().all(|id| !self.clients.borrow().contains_key(id))).await;
    }

    /// Ends the server; returns when the last client is gone.
    pub(crate) async fn stop(self: Rc<Self>) {
        self.stopping.set(true);
        self.remove_socket();
        if let Some(accepting) = &*self.accepting.borrow() {
            shutdown(accepting, Shutdown::Both).ok();
        }
        for client in self.clients.borrow().values() {
            // A client past its handshake still gets its answers: only the way in is closed.
            let how = if client.connection.is_some() { Shutdown::Read } else { Shutdown::Both };
            shutdown(&client.socket, how).ok();
        }
        let gone = || self.accepting.borrow().is_none() && self.clients.borrow().is_empty();
        let limit = self.pool.reactor().sleep(self.options.stop_limit);
        if let First::A(()) = first(self.changed.until(gone), limit).await {
            return;
        }
        for client in self.clients.borrow().values() {
            shutdown(&client.socket, Shutdown::Both).ok();
        }
        // What is left are requests that the engine has not finished.
        self.changed.until(gone).await;
    }
}

/// The next connection, once there is one.
async fn accept(reactor: &Reactor, listener: &Rc<Socket>, closing: &Closing) -> io::Result<Socket> {
    loop {
        // Whoever comes and goes would have the process run out of descriptors while closing one of them waits.
        while !closing.has_room() {
            reactor.sleep(ACCEPT_PAUSE).await;
        }
        let _events = reactor.poll_held(listener, libc::POLLIN).await?;
        match listener.accept() {
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            outcome => return outcome.map_err(io::Error::from),
        }
    }
}

/// Accepts until `stop` is closed. (A socket, not a [`Signal`]: a task that waits in a signal of its own server would keep
/// itself alive when the reactor drops its operations.)
async fn accept_clients(accepting: Accepting, listener: OwnedFd, stop: Rc<OwnedFd>) {
    let Accepting(server) = &accepting;
    let closing = Closing::default();
    let listener = Rc::new(Socket::new(listener, &closing));
    let reactor = server.pool.reactor();
    let mut stopped = pin!(reactor.recv(&stop, IoBuf::with_len(1), 0..1));
    loop {
        match first(accept(reactor, &listener, &closing), stopped.as_mut()).await {
            First::A(Ok(socket)) => server.welcome(socket),
            First::A(Err(e)) if socket::is_lasting(&e) => break,
            First::A(Err(_)) => match first(reactor.sleep(ACCEPT_PAUSE), stopped.as_mut()).await {
                First::A(()) => {}
                First::B(_) => break,
            },
            First::B(_) => break,
        }
    }
    // Deaf at once: the operation that was dropped may hold the socket for a moment longer than this task.
    shutdown(&listener, Shutdown::Both).ok();
}
