//! Carrying out requests: one task each, so that they overtake one another freely.

use crate::{
    connection::Connection,
    input::Input,
    protocol::{self, Command, MAX_PAYLOAD, ReplyStyle, Request, RequestId, Rules, StatusFilter},
    status,
    wake::{First, first},
};
use cairn_engine::{Admitted, IoBuf, RequestKind};
use std::{cell::Cell, io, rc::Rc};

/// How many pages of the map one `CACHE` loads at most: a hint must not become a walk over a whole volume.
const CACHE_PAGES: usize = 16;

/// A connection takes no further request: the client said good-bye, went away, or broke the protocol. Requests in flight
/// are answered in each of these cases, as far as anybody is there to read.
pub(crate) struct Ended;

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// Takes requests until the connection ends. Under `stopping`, every further one is refused.
pub(crate) async fn take_requests(conn: &Rc<Connection>, input: &mut Input, stopping: &Cell<bool>) -> Ended {
    let extended = conn.style == ReplyStyle::Extended;
    loop {
        let taken = match protocol::parse_request(input.bytes(), extended) {
            Ok(Some((request, size))) => {
                input.consume(size);
                take(conn, input, &request, stopping).await
            }
            Ok(None) => input.fill(&conn.transport).await.map_err(Ended::from),
            // The stream has lost its place: nothing after this can be understood.
            Err(_) => Err(Ended),
        };
        if let Err(ended) = taken {
            return ended;
        }
    }
}

fn rules(conn: &Connection) -> Rules {
    Rules {
        style: conn.style,
        // The current size: the volume may have grown since the client was told.
        size: conn.volume.size(),
        read_only: conn.is_read_only(),
        max_request: conn.options.max_request,
        contexts: !conn.contexts.is_empty(),
    }
}

/// Takes one request whose header was consumed.
async fn take(conn: &Rc<Connection>, input: &mut Input, request: &Request, stopping: &Cell<bool>) -> Result<(), Ended> {
    let payload = request.payload(conn.style == ReplyStyle::Extended);
    if payload > u64::from(MAX_PAYLOAD) {
        // Too much even to read past.
        return Err(Ended);
    }
    let rules = rules(conn);
    let command = match protocol::check(request, &rules) {
        Ok(Command::Disconnect) => return Err(Ended),
        Ok(_) if stopping.get() => Err((protocol::ESHUTDOWN, "the server is shutting down".into())),
        Ok(command) => Ok(command),
        Err(refusal) => Err((refusal.errno, refusal.text)),
    };
    match command {
        Ok(command) => start(conn, input, request, command, &rules, stopping).await,
        Err((errno, text)) => {
            conn.admit(0).await;
            // Answered after its payload: a client that writes first and reads later must not be held up.
            let skipped = input.skip(&conn.transport, payload).await;
            conn.refuse(request.id, errno, &text, 0);
            skipped.map_err(Ended::from)
        }
    }
}

/// Receives what the command needs and gives it to a task of its own.
async fn start(
    conn: &Rc<Connection>,
    input: &mut Input,
    request: &Request,
    command: Command,
    rules: &Rules,
    stopping: &Cell<bool>,
) -> Result<(), Ended> {
    let id = request.id;
    let task = || Rc::clone(conn);
    let spawn = conn.transport.reactor();
    match command {
        Command::Read { length, whole } => {
            conn.admit(length as usize).await;
            let admitted = limits(conn, stopping, id, RequestKind::Read, length.into(), length as usize).await?;
            spawn.spawn(read(task(), admitted, id, length, whole)).detach();
        }
        Command::Write { length, fua } => {
            conn.admit(length as usize).await;
            let admitted = limits(conn, stopping, id, RequestKind::Write, length.into(), length as usize).await?;
            // However long the client takes to send it, nobody else waits for that.
            if let Some(admitted) = admitted.as_ref().filter(|_| input.bytes().len() < length as usize) {
                admitted.pause();
            }
            let payload = match input.payload(&conn.transport, length as usize).await {
                Ok(payload) => payload,
                Err(e) => {
                    conn.refuse(id, protocol::EIO, "the payload did not arrive whole", length as usize);
                    return Err(e.into());
                }
            };
            spawn.spawn(write(task(), admitted, id, payload, fua)).detach();
        }
        Command::Flush => {
            conn.admit(0).await;
            spawn.spawn(flush(task(), id)).detach();
        }
        Command::Trim { length, fua } => {
            conn.admit(0).await;
            let admitted = limits(conn, stopping, id, RequestKind::Discard, length, 0).await?;
            spawn.spawn(discard(task(), admitted, id, length, fua)).detach();
        }
        Command::WriteZeroes { length, fua } => {
            conn.admit(0).await;
            let admitted = limits(conn, stopping, id, RequestKind::Discard, length, 0).await?;
            spawn.spawn(write_zeroes(task(), admitted, id, length, fua)).detach();
        }
        Command::Cache { length } => {
            conn.admit(0).await;
            spawn.spawn(cache(task(), id, length)).detach();
        }
        Command::BlockStatus { length, one } => {
            conn.admit(status::reply_bound(conn.contexts.len())).await;
            spawn.spawn(status::report(task(), id, length, one, None)).detach();
        }
        Command::FilteredStatus { payload, one } => {
            let bound = status::reply_bound(conn.contexts.len());
            conn.admit(bound).await;
            let payload = match input.payload(&conn.transport, payload as usize).await {
                Ok(payload) => payload,
                Err(e) => {
                    conn.refuse(id, protocol::EIO, "the payload did not arrive whole", bound);
                    return Err(e.into());
                }
            };
            match protocol::parse_status_filter(request, &payload, rules) {
                Ok(StatusFilter { length, ids }) => {
                    spawn.spawn(status::report(task(), id, length, one, Some(ids))).detach();
                }
                Err(refusal) => conn.refuse(id, refusal.errno, &refusal.text, bound),
            }
        }
        Command::Disconnect => return Err(Ended),
    }
    Ok(())
}

/// Waits until the limits let a request go, before anything of it but its header is taken. A request of nothing goes.
async fn limits(
    conn: &Connection,
    stopping: &Cell<bool>,
    id: RequestId,
    kind: RequestKind,
    bytes: u64,
    in_flight: usize,
) -> Result<Option<Admitted>, Ended> {
    if bytes == 0 {
        return Ok(None);
    }
    // The socket is not looked at unless the request has to wait.
    match first(conn.volume.admit(kind, bytes), conn.transport.hung_up(stopping)).await {
        First::A(admitted) => Ok(Some(admitted)),
        First::B(()) => {
            conn.refuse(id, protocol::ESHUTDOWN, "the connection ended while limits held the request back", in_flight);
            Err(Ended)
        }
    }
}

async fn read(conn: Rc<Connection>, admitted: Option<Admitted>, id: RequestId, length: u32, whole: bool) {
    let Some(mut admitted) = admitted else { return conn.succeed(id, true, 0) };
    match admitted.read(id.offset, length as usize).await {
        Ok(data) => {
            conn.record.read(u64::from(length));
            // A hole chunk is content too, so it keeps to "at most one content chunk"; but a client that asked not to
            // be sent fragments wants its bytes in one place.
            if !whole && conn.style != ReplyStyle::Simple && is_zero(&data) {
                let bytes = data.len();
                drop(data);
                conn.answer(bytes, |out| protocol::put_hole(out, conn.style, id, length));
            } else {
                conn.answer_data(id, data);
            }
        }
        Err(error) => conn.fail(id, &error, length as usize),
    }
}

async fn write(conn: Rc<Connection>, admitted: Option<Admitted>, id: RequestId, payload: IoBuf, fua: bool) {
    let length = payload.len();
    let Some(mut admitted) = admitted else { return conn.succeed(id, false, 0) };
    let result = admitted.write(id.offset, payload, fua).await;
    conn.release_payload(length);
    match result {
        Ok(()) => {
            conn.record.wrote(length as u64);
            conn.succeed(id, false, 0);
        }
        Err(error) => conn.fail(id, &error, 0),
    }
}

fn finish(conn: &Connection, id: RequestId, result: cairn_engine::Result<()>) {
    match result {
        Ok(()) => conn.succeed(id, false, 0),
        Err(error) => conn.fail(id, &error, 0),
    }
}

async fn flush(conn: Rc<Connection>, id: RequestId) {
    // A snapshot is on stable storage since it was taken.
    let result = if conn.is_read_only() { Ok(()) } else { conn.volume.flush().await };
    finish(&conn, id, result);
}

async fn discard(conn: Rc<Connection>, admitted: Option<Admitted>, id: RequestId, length: u64, fua: bool) {
    let result = match admitted {
        None => Ok(()),
        Some(mut admitted) => admitted.discard(id.offset, length, fua).await,
    };
    finish(&conn, id, result);
}

async fn write_zeroes(conn: Rc<Connection>, admitted: Option<Admitted>, id: RequestId, length: u64, fua: bool) {
    let result = match admitted {
        None => Ok(()),
        Some(mut admitted) => admitted.write_zeroes(id.offset, length, fua).await,
    };
    finish(&conn, id, result);
}

async fn cache(conn: Rc<Connection>, id: RequestId, length: u64) {
    let (mut offset, end) = (id.offset, id.offset.saturating_add(length));
    for _ in 0..CACHE_PAGES {
        if offset >= end {
            break;
        }
        match conn.volume.extents(offset, end - offset).await {
            Ok(page) => match page.next {
                Some(next) if next > offset => offset = next,
                _ => break,
            },
            Err(error) => return conn.fail(id, &error, 0),
        }
    }
    conn.succeed(id, false, 0);
}

/// Whether every byte is zero. Data that is not is found out by its first bytes, as a rule.
fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    chunks.iter().all(|chunk| chunk.iter().fold(0, |or, byte| or | byte) == 0) && rest.iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_found_wherever_a_byte_is_set() {
        let mut bytes = vec![0; 4096 + 7];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 63, 64, 2000, 4095, 4096, 4102] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at}");
            bytes[at] = 0;
        }
    }
}
