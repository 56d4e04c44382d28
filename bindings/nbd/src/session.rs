//! One client from accept to close: the handshake, then its requests.

use crate::{
    client::Record,
    commands::{Ended, take_requests},
    connection::Connection,
    exports::{Base, PoolExports},
    handshake::{Event, Handshake, Session},
    input::Input,
    serving::Place,
    socket::Socket,
    transport::Transport,
    wake::{First, first},
};
use cairn_engine::{LocalVolume, SendBuf};
use std::{io, rc::Rc, sync::Arc, time::Duration};

/// Replies of the handshake that are gathered before they are sent.
const HANDSHAKE_AHEAD: usize = 64 * 1024;
/// How long a connection that is over may take to say so.
const FINISH_LIMIT: Duration = Duration::from_secs(2);

/// Serves one client from its first byte to its last.
pub(crate) async fn serve_client(place: Place, socket: Rc<Socket>, record: Arc<Record>) {
    let server = &place.server;
    let mut transport = Transport::new(server.pool.reactor().clone(), Rc::clone(&socket));
    let mut input = Input::new();
    let limit = server.pool.reactor().sleep(server.options.handshake_limit);
    let session = match first(shake_hands(&place, &mut transport, &mut input, &record), limit).await {
        First::A(Ok(Some(session))) => *session,
        First::A(Ok(None)) => return finish(&transport).await,
        First::A(Err(_)) | First::B(()) => return,
    };
    // It may have been withdrawn while the last reply was on its way. From here to its place among the clients nothing else runs.
    let offers = server.options.offers.as_ref();
    if offers.is_some_and(|offers| offers.find(&session.export.name).is_none()) {
        return;
    }
    record.entered(session.export.export.name(), session.export.read_only);
    transmit(&place, transport, input, session, record).await;
}

/// Takes requests until the connection ends, and waits until the last one is answered.
async fn transmit(place: &Place, transport: Transport, mut input: Input, session: Agreed, record: Arc<Record>) {
    let options = Rc::clone(&place.server.options);
    let Session { export, style, contexts } = session;
    let conn = Rc::new(Connection::new(transport, export, style, contexts, options, record));
    place.entered(&conn);
    let writer = conn.transport.reactor().spawn(Rc::clone(&conn).write_replies());
    let Ended = take_requests(&conn, &mut input, &place.server.stopping).await;
    conn.end();
    writer.await;
    finish(&conn.transport).await;
}

/// Closes in good order, without waiting long for a peer that takes nothing.
async fn finish(transport: &Transport) {
    let (First::A(()) | First::B(())) = first(transport.finish(), transport.reactor().sleep(FINISH_LIMIT)).await;
}

type Agreed = Session<LocalVolume, Base>;

/// Takes a client through the handshake; `None` when it ended without an export.
async fn shake_hands(
    place: &Place,
    transport: &mut Transport,
    input: &mut Input,
    record: &Record,
) -> io::Result<Option<Box<Agreed>>> {
    let server = &place.server;
    let exports = PoolExports::new(server.pool.clone(), server.options.read_only, server.options.offers.clone());
    let mut handshake = Handshake::new(exports, server.options.tls, server.options.max_request);
    let mut out = Vec::new();
    handshake.greet(&mut out);
    loop {
        if server.stopping.get() {
            handshake.shut_down();
        }
        let step = handshake.advance(input.bytes(), &mut out);
        input.consume(step.consumed);
        if let Event::Enter(session) = &step.event {
            place.opened(session.export.export.name());
        }
        if matches!(step.event, Event::Continue) && out.len() < HANDSHAKE_AHEAD {
            continue;
        }
        if !out.is_empty() {
            transport.send(vec![SendBuf::Bytes(std::mem::take(&mut out))]).await?;
        }
        match step.event {
            Event::Continue => {}
            Event::NeedInput => input.fill(transport).await?,
            Event::Enter(session) => return Ok(Some(session)),
            Event::Close(_) => return Ok(None),
            Event::StartTls => {
                let Some(acceptor) = &server.acceptor else { return Ok(None) };
                transport.start_tls(acceptor, input.bytes()).await?;
                // What came in clear was handed to TLS, which refuses anything that is not its own.
                input.consume(usize::MAX);
                handshake.encrypted();
                record.encrypted();
            }
        }
    }
}
