//! One front-end from its first message to its last: what it sets up, and when its rings run.
//!
//! A ring runs while it has a kick descriptor, is enabled, and the front-end has said where it is. Whatever completes that starts it, in
//! whatever order the messages come; `GET_VRING_BASE`, disabling, a reset and the end of the connection stop it, and each waits
//! for the requests under way.

use crate::{
    descriptors::{Foreign, Kind},
    device::Device,
    memory::{MAX_REGIONS, Memory},
    protocol::{
        self, BACKEND_CONFIG_CHANGE, F_PROTOCOL_FEATURES, Header, InflightInfo, Message, PROTOCOL_FEATURES,
        PROTOCOL_REPLY_ACK, RingAddresses, VERSION,
    },
    ring::{Broken, InflightRegion, Place},
    vring::{Events, Vring},
    wake::{First, all, first},
    wire::{Ended, Wire, send_now},
};
use cairn_engine::Task;
use std::{
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

/// How often a volume's size is looked at while a front-end wants to be told of changes. (The engine tells nobody.)
const SIZE_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of a ring.
#[derive(Default)]
struct Setup {
    size: u16,
    base: u16,
    addresses: Option<RingAddresses>,
    events: Events,
    enabled: bool,
    running: Option<Rc<Vring>>,
}

/// What a message is answered with.
enum Reply {
    /// An acknowledgement, if one was asked for.
    Done,
    Body(Vec<u8>),
    WithFile(Vec<u8>, OwnedFd),
}

/// A message that cannot be done. The front-end is told so, if it asked; otherwise the connection ends.
struct Refused(String);

impl<T: Into<String>> From<T> for Refused {
    fn from(why: T) -> Self {
        Self(why.into())
    }
}

fn number(value: u64) -> Result<Reply, Refused> {
    Ok(Reply::Body(value.to_ne_bytes().to_vec()))
}

pub(crate) struct Session {
    device: Rc<Device>,
    protocol: u64,
    rings: Vec<Setup>,
    inflight: Option<Rc<InflightRegion>>,
    /// Tells the front-end of changes of the size.
    watcher: Option<Task<()>>,
}

impl Session {
    pub(crate) fn new(device: Rc<Device>) -> Self {
        let rings = (0..device.options.queues).map(|_| Setup::default()).collect();
        Self { device, protocol: 0, rings, inflight: None, watcher: None }
    }

    /// Serves a front-end until it goes, breaks the protocol, or `stop` says so. Returns when its last request was given back.
    /// `closed` is told when nobody listens any more.
    pub(crate) async fn serve(mut self, mut wire: Wire, stop: impl AsyncFn(), closed: impl FnOnce()) {
        let stopped = stop();
        let mut stopped = std::pin::pin!(stopped);
        loop {
            let (header, message) = match first(stopped.as_mut(), wire.receive()).await {
                First::A(()) | First::B(Err(Ended::Gone)) => break,
                First::B(Err(Ended::Violation(why))) => {
                    self.device.record.fault(&why);
                    break;
                }
                First::B(Ok(received)) => received,
            };
            let handled = self.handle(message).await;
            if let Err(Refused(why)) = &handled {
                self.device.record.fault(why);
            }
            let Some((reply, file)) = self.answer(header, handled) else { break };
            let sent = first(stopped.as_mut(), wire.send(&reply, file.as_ref().map(AsFd::as_fd))).await;
            if !matches!(sent, First::B(Ok(()))) {
                break;
            }
        }
        closed();
        drop(self.watcher.take());
        self.stop_all().await;
        // Whoever serves the guest next answers its next flush. Nobody is left to be told of an error.
        self.device.volume.flush().await.ok();
    }

    /// The reply to send, none of no bytes when nobody waits for it; `None` when the connection is to end.
    fn answer(&self, header: Header, handled: Result<Reply, Refused>) -> Option<(Vec<u8>, Option<OwnedFd>)> {
        let acknowledged = header.needs_reply() && self.protocol & PROTOCOL_REPLY_ACK != 0;
        let acknowledge = |outcome: u64| (header.reply(&outcome.to_ne_bytes()), None);
        match handled {
            Ok(Reply::Body(body)) => Some((header.reply(&body), None)),
            Ok(Reply::WithFile(body, file)) => Some((header.reply(&body), Some(file))),
            Ok(Reply::Done) if acknowledged => Some(acknowledge(0)),
            Ok(Reply::Done) => Some((Vec::new(), None)),
            Err(_) if acknowledged => Some(acknowledge(1)),
            Err(_) => None,
        }
    }

    async fn handle(&mut self, message: Message) -> Result<Reply, Refused> {
        match message {
            Message::GetFeatures => return number(self.device.offered()),
            Message::SetFeatures(features) => self.set_features(features)?,
            Message::GetProtocolFeatures => return number(PROTOCOL_FEATURES),
            Message::SetProtocolFeatures(features) => {
                refuse_beyond("protocol feature", features, PROTOCOL_FEATURES)?;
                self.protocol = features;
            }
            Message::GetQueueNum => return number(u64::from(self.device.options.queues)),
            Message::SetOwner => {}
            Message::ResetOwner | Message::ResetDevice => self.reset().await,
            Message::GetMaxMemSlots => return number(MAX_REGIONS as u64),
            Message::SetMemTable(table) => {
                let files = table.iter().map(|(_, file)| file);
                expect(Kind::Memory, files)?;
                let bytes = table.iter().fold(0, |sum: u64, (region, _)| sum.saturating_add(region.size));
                self.device.room_for_memory(table.len(), bytes).await;
                self.set_memory(Memory::map(table, &self.device.budget)?)?;
            }
            Message::AddMemReg(region, file) => {
                expect(Kind::Memory, [&file])?;
                self.device.room_for_memory(1, region.size).await;
                self.set_memory(self.device.memory().with(region, file, &self.device.budget)?)?;
            }
            Message::RemMemReg(region) => self.set_memory(self.device.memory().without(region)?)?,
            Message::GetConfig { offset, size } => {
                let bytes = self.device.config(offset, size);
                return Ok(Reply::Body(protocol::config_body(offset, &bytes)));
            }
            Message::SetConfig { offset, bytes } => self.device.set_config(offset, &bytes).await?,
            Message::GetInflightFd(info) => return self.make_inflight(info),
            Message::SetInflightFd(info, file) => {
                self.device.room_for_memory(1, info.size).await;
                self.set_inflight(info, file)?;
            }
            Message::SetBackendReqFd(socket) => {
                expect(Kind::Socket, [&socket])?;
                self.watcher = Some(self.device.reactor.spawn(watch_size(Rc::clone(&self.device), socket)));
            }
            Message::Unknown(request) => return Err(format!("message {request} is not supported").into()),
            ring => return self.handle_ring(ring).await,
        }
        Ok(Reply::Done)
    }

    /// Messages that are about one ring.
    async fn handle_ring(&mut self, message: Message) -> Result<Reply, Refused> {
        match message {
            Message::SetVringNum { index, size } => {
                let most = self.device.options.queue_size;
                let size = u16::try_from(size).ok().filter(|size| size.is_power_of_two() && *size <= most);
                self.idle(index)?.size =
                    size.ok_or_else(|| format!("a ring's size must be a power of two up to {most}"))?;
            }
            Message::SetVringAddr { index, addresses } => {
                self.idle(index)?.addresses = Some(addresses);
                self.try_start(index)?;
            }
            Message::SetVringBase { index, base } => {
                self.idle(index)?.base = u16::try_from(base).map_err(|_| "a ring's base has 16 bits")?;
            }
            Message::GetVringBase { index } => {
                self.stop(index).await?;
                let ring = self.ring(index)?;
                ring.events.kick = None;
                let base = u32::from(ring.base);
                return Ok(Reply::Body([index.to_ne_bytes(), base.to_ne_bytes()].concat()));
            }
            Message::SetVringKick { index, fd } => {
                expect(Kind::Event, &fd)?;
                let kick = fd.ok_or("rings without kicks are not supported: they would have to be polled")?;
                self.stop(index).await?;
                self.ring(index)?.events.kick = Some(Rc::new(kick.into_event()));
                self.try_start(index)?;
            }
            Message::SetVringCall { index, fd } => {
                expect(Kind::Event, &fd)?;
                let ring = self.ring(index)?;
                ring.events.call = fd.map(|fd| Rc::new(fd.into_event()));
                if let Some(running) = &ring.running {
                    running.set_call(ring.events.call.clone());
                }
            }
            Message::SetVringErr { index, fd } => {
                expect(Kind::Event, &fd)?;
                let ring = self.ring(index)?;
                ring.events.error = fd.map(|fd| Rc::new(fd.into_event()));
                if let Some(running) = &ring.running {
                    running.set_error(ring.events.error.clone());
                }
            }
            Message::SetVringEnable { index, enable: true } => {
                self.ring(index)?.enabled = true;
                self.try_start(index)?;
            }
            Message::SetVringEnable { index, enable: false } => {
                self.stop(index).await?;
                self.ring(index)?.enabled = false;
            }
            other => return Err(format!("{other:?} is about no ring").into()),
        }
        Ok(Reply::Done)
    }

    fn ring(&mut self, index: u32) -> Result<&mut Setup, Refused> {
        let queues = self.rings.len();
        let ring = usize::try_from(index).ok().and_then(|index| self.rings.get_mut(index));
        ring.ok_or_else(|| format!("there is no ring {index}: there are {queues}").into())
    }

    /// A ring that can be set up: it does not run.
    fn idle(&mut self, index: u32) -> Result<&mut Setup, Refused> {
        let ring = self.ring(index)?;
        if ring.running.is_some() { Err(format!("ring {index} runs: it cannot be changed").into()) } else { Ok(ring) }
    }

    fn set_features(&mut self, features: u64) -> Result<(), Refused> {
        refuse_beyond("feature", features, self.device.offered())?;
        self.device.features.set(features);
        Ok(())
    }

    fn set_memory(&mut self, memory: Memory) -> Result<(), Refused> {
        self.device.set_memory(memory);
        for ring in &self.rings {
            if let (Some(running), Some(addresses)) = (&ring.running, ring.addresses) {
                running.move_to(addresses);
            }
        }
        for index in 0..self.rings.len() as u32 {
            self.try_start(index)?;
        }
        Ok(())
    }

    /// Starts a ring if everything is there that it needs.
    fn try_start(&mut self, index: u32) -> Result<(), Refused> {
        let device = Rc::clone(&self.device);
        let inflight = self.inflight.clone();
        let memory = device.memory();
        let ring = self.ring(index)?;
        // Without protocol features there is no message to enable a ring.
        let enabled = ring.enabled || !device.has(F_PROTOCOL_FEATURES);
        let (Some(addresses), Some(kick)) = (ring.addresses, ring.events.kick.clone()) else { return Ok(()) };
        if ring.running.is_some() || !enabled || ring.size == 0 || memory.is_empty() {
            return Ok(());
        }
        let place = Place { size: ring.size, addresses, base: ring.base, event_index: device.event_index() };
        if !place.is_within(&memory) {
            // Not an error yet: regions come one by one, also those that one part of a ring is in.
            return Ok(());
        }
        let tracker = match &inflight {
            None => None,
            Some(region) => {
                let tracker = region.queue(index as usize, ring.size);
                Some(
                    tracker
                        .ok_or_else(|| format!("the in-flight region has no room for ring {index} of {}", ring.size))?,
                )
            }
        };
        let started = Vring::start(device, place, &ring.events, kick, tracker);
        ring.running = Some(started.map_err(|Broken(why)| format!("ring {index}: {why}"))?);
        self.count();
        Ok(())
    }

    /// Stops a ring, if it runs; it goes on from there.
    async fn stop(&mut self, index: u32) -> Result<(), Refused> {
        let ring = self.ring(index)?;
        if let Some(running) = ring.running.take() {
            ring.base = running.stop().await;
        }
        self.count();
        Ok(())
    }

    /// Stops all rings, together: each may have to wait for its requests, and for a driver that takes no calls.
    async fn stop_all(&mut self) {
        let running = self.rings.iter_mut().filter_map(|ring| {
            let running = ring.running.take()?;
            let base = &mut ring.base;
            Some(async move { *base = running.stop().await })
        });
        all(running).await;
        self.count();
    }

    fn count(&self) {
        self.device.record.serves(self.rings.iter().filter(|ring| ring.running.is_some()).count());
    }

    async fn reset(&mut self) {
        self.stop_all().await;
        self.rings.fill_with(Setup::default);
        self.inflight = None;
        self.device.reset().await;
    }

    fn make_inflight(&self, info: InflightInfo) -> Result<Reply, Refused> {
        let (queues, size) = (info.queues, info.queue_size);
        if !(1..=self.device.options.queues).contains(&queues) || !(1..=self.device.options.queue_size).contains(&size)
        {
            return Err(format!("an in-flight region for {queues} rings of {size}").into());
        }
        let (file, size) = InflightRegion::create(queues, size).map_err(|e| format!("an in-flight region: {e}"))?;
        Ok(Reply::WithFile(info.with_size(size).body(), file))
    }

    fn set_inflight(&mut self, info: InflightInfo, file: Foreign) -> Result<(), Refused> {
        expect(Kind::Memory, [&file])?;
        if self.rings.iter().any(|ring| ring.running.is_some()) {
            return Err("the in-flight region cannot change while a ring runs".into());
        }
        let InflightInfo { size, offset, queues, queue_size, .. } = info;
        self.inflight =
            Some(Rc::new(InflightRegion::open(&file, offset, size, queues, queue_size, &self.device.budget)?));
        self.device.tracked.set(true);
        Ok(())
    }
}

fn refuse_beyond(what: &str, asked: u64, offered: u64) -> Result<(), Refused> {
    match asked & !offered {
        0 => Ok(()),
        beyond => Err(format!("{what}s {beyond:#x} were not offered").into()),
    }
}

fn expect<'a>(kind: Kind, fds: impl IntoIterator<Item = &'a Foreign>) -> Result<(), Refused> {
    match fds.into_iter().all(|fd| Kind::of(fd) == Some(kind)) {
        true => Ok(()),
        false => Err(match kind {
            Kind::Event => "a descriptor for kicks, calls and errors must be an eventfd".into(),
            Kind::Memory => "memory must be a memfd or a file of tmpfs or hugetlbfs".into(),
            Kind::Socket => "the back-end's channel must be a unix socket".into(),
        }),
    }
}

/// Tells the front-end when the volume has another size than it was told, and once in any case, as soon as there are rings, whose driver can be
/// told: what the front-end knows may be older than its connection, and the volume may have grown while nobody was connected.
async fn watch_size(device: Rc<Device>, channel: Foreign) {
    let message = protocol::encode(BACKEND_CONFIG_CHANGE, VERSION, &[]);
    let mut told = None;
    loop {
        device.reactor.sleep(SIZE_INTERVAL).await;
        let size = device.volume.size();
        if told == Some(size) || !device.record.has_queues() {
            continue;
        }
        match send_now(&channel, &message, None) {
            Ok(n) if n == message.len() => told = Some(size),
            // It takes none now: later.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            _ => return,
        }
    }
}
