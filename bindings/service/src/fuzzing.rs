//! What the fuzz targets ask: a service without a network, over a real pool and a real catalog, with people and objects in it.

use axum::body::Body;
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::BodyExt;
use std::{collections::BTreeMap, path::Path};

use crate::{
    domain::Role,
    fault::{Answer, Fault, FaultKind},
    identity::world::{Caller, Objects, TABLE, World},
    image::{
        self,
        qcow2::{Disk, Piece, Step, Target, Writer},
    },
};

/// Most requests of one input.
const MOST_REQUESTS: usize = 16;
/// Editions that a request may name.
const EDITIONS: [(&str, Option<&str>); 3] = [("old", Some("volume 3.0")), ("new", Some("volume 3.71")), ("none", None)];

/// The service, and what it is put back to before each input.
pub struct Service {
    world: World,
    objects: Objects,
    stored: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What the other project got to know by what it did itself.
#[derive(Default)]
struct Known {
    /// All that it said: refused requests are among its events, with what they named.
    said: String,
    /// Its administrator has changed something. That may have made copies, which tell what they are made from.
    changed: bool,
}

struct Asked {
    caller: Caller,
    request: Request<Body>,
    /// All that the client said.
    said: String,
}

fn caller(word: &str) -> Caller {
    let known = [
        ("reader", Caller::Here(Role::Reader)),
        ("member", Caller::Here(Role::Member)),
        ("admin", Caller::Here(Role::Admin)),
        ("other-reader", Caller::There(Role::Reader)),
        ("other-member", Caller::There(Role::Member)),
        ("other-admin", Caller::There(Role::Admin)),
        ("self", Caller::Themselves),
    ];
    known.iter().find(|(name, _)| *name == word).map_or(Caller::Nobody, |(_, caller)| *caller)
}

/// Words for callers in inputs.
const CALLERS: [&str; 8] =
    ["member", "admin", "other-member", "self", "reader", "other-admin", "other-reader", "nobody"];

/// Requests of each part of the interface, as inputs.
#[must_use]
pub fn seeds() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut inputs: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for (n, line) in TABLE.iter().enumerate() {
        // Those of `/cairn/v1` together.
        let part =
            line.route.trim_start_matches("/image/v2/").trim_start_matches("/v3/").trim_start_matches("/identity/v3/");
        let part = part.trim_matches('/').split('/').next().unwrap_or_default().replace('-', "_");
        let name = if part.is_empty() { "root" } else { &part };
        let requests = inputs.entry(name.to_owned()).or_default();
        let (path, caller) = (line.path(), CALLERS[n % 2]);
        requests.push(format!("{} {path} {caller} new\n{}", line.method, line.body).into_bytes());
        requests.push(format!("{} {path} {} new\n{}", line.method, CALLERS[2 + n % 6], line.body).into_bytes());
    }
    let mut seeds = Vec::new();
    for (name, requests) in inputs {
        for (n, some) in requests.chunks(MOST_REQUESTS).enumerate() {
            seeds.push(("service_requests", format!("{name}_{n}"), some.join(&0)));
        }
    }
    seeds
}

impl Service {
    /// In an empty directory.
    pub async fn new(directory: &Path) -> Self {
        let world = World::new(directory).await;
        let objects = world.all_objects().await;
        let stored = world.block.catalog().pairs().expect("a catalog that can be read");
        Self { world, objects, stored }
    }

    /// Requests, between NUL bytes: a line `METHOD URI WHO EDITION`, then the body. `$volume` and the like in both stand for objects. Says
    /// whether one of them was carried out.
    ///
    /// # Panics
    /// When an answer is not as it should be, or the catalog is not sound afterwards.
    pub async fn check(&self, input: &[u8]) -> bool {
        self.world.block.settled().await;
        self.world.block.catalog().put_back(&self.stored).expect("a catalog that can be written");
        self.world.make_real(&self.objects).await;
        self.world.take_out_limits().await;
        let mut understood = false;
        let mut known = Known::default();
        for bytes in input.split(|&byte| byte == 0).take(MOST_REQUESTS) {
            if let Some(asked) = self.asked(bytes) {
                understood |= self.call(asked, &mut known).await;
            }
        }
        self.world.block.settled().await;
        assert_eq!(self.world.problems(), Vec::<String>::new(), "the catalog is not sound");
        understood
    }

    fn asked(&self, bytes: &[u8]) -> Option<Asked> {
        let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
        let line = self.objects.fill(std::str::from_utf8(bytes.get(..end)?).ok()?);
        let body = bytes.get(end + 1..).unwrap_or_default();
        let body = match std::str::from_utf8(body) {
            Ok(text) => self.objects.fill(text).into_bytes(),
            Err(_) => body.to_vec(),
        };
        let mut words = line.split(' ');
        let method = Method::from_bytes(words.next()?.as_bytes()).ok()?;
        let uri: Uri = words.next()?.parse().ok()?;
        let (who, edition) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let caller = caller(who);
        let mut request = Request::builder().method(method).uri(uri);
        let known = EDITIONS.iter().find(|(name, _)| *name == edition);
        if let Some(edition) = known.map_or(Some(edition), |(_, text)| *text).filter(|text| !text.is_empty()) {
            request = request.header("OpenStack-API-Version", edition);
        }
        if let Some(token) = self.world.token(caller, &self.objects) {
            request = request.header("X-Auth-Token", HeaderValue::from_bytes(&token).ok()?);
            request = request.header("X-Subject-Token", HeaderValue::from_bytes(&token).ok()?);
        }
        let said = format!("{line}{}", String::from_utf8_lossy(&body));
        Some(Asked { caller, request: request.body(Body::from(body)).ok()?, said })
    }

    async fn call(&self, asked: Asked, known: &mut Known) -> bool {
        let Asked { caller, request, said } = asked;
        let path = request.uri().path().to_owned();
        let about = format!("{} {} by {caller:?}", request.method(), request.uri());
        let is_head = request.method() == Method::HEAD;
        let looks = is_head || request.method() == Method::GET;
        if let Caller::There(role) = caller {
            known.said.push_str(&said);
            known.changed |= role == Role::Admin && !looks;
        }
        let answer = self.world.answer(request).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a whole body").to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert!(status.as_u16() != 500, "{about}: {status}: {text}");
        if !status.is_success() && status.as_u16() != 300 {
            let is_known = is_head || is_refusal(status.as_u16(), &body);
            assert!(is_known, "{about}: {status} in another form: {text}");
        } else {
            assert!(!is_head || body.is_empty(), "{about}: a body");
            let is_open = is_head
                || path == "/healthz"
                || path == "/cairn/v1/openapi.json"
                || path == "/identity/v3/auth/tokens"
                || text.starts_with("{\"version\":")
                || text.starts_with("{\"versions\":");
            assert!(caller != Caller::Nobody || is_open, "{about}: {status}: {text}");
        }
        // What others may have given away meanwhile is left out.
        // Images that everybody may read tell whose they are.
        let is_image = path.starts_with("/image/");
        let given = |name: &str| matches!(name, "offered" | "private" | "secret") || is_image && name == "project";
        let is_checked = !caller.is_here() && !known.changed;
        for (name, id) in self.objects.hidden_from(caller).filter(|(name, _)| is_checked && !given(name)) {
            let is_known = said.contains(id) || caller != Caller::Nobody && known.said.contains(id);
            assert!(!text.contains(id) || is_known, "{about}: shows {name}: {text}");
        }
        status.is_success()
    }
}

/// `{"what":{"code":CODE,"message":"why"}}`.
fn is_refusal(status: u16, body: &[u8]) -> bool {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(body) else { return false };
    let mut fields = fields.values();
    let Some(inner) = fields.next().filter(|_| fields.len() == 0) else { return false };
    let message = inner.get("message").and_then(serde_json::Value::as_str);
    inner.get("code").and_then(serde_json::Value::as_u64) == Some(status.into())
        && message.is_some_and(|text| !text.is_empty())
}

/// Most pieces of an image that are read, and most steps that are taken.
const MOST_PIECES: usize = 256;
const MOST_STEPS: usize = 4096;

struct Memory(Vec<u8>);

impl Target for Memory {
    async fn write(&mut self, offset: u64, data: &[u8]) -> Answer<()> {
        let from = usize::try_from(offset).expect("an offset in memory");
        self.0.resize(self.0.len().max(from + data.len()), 0);
        self.0[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// A qcow2 file. Says whether there was a disk in it.
///
/// # Panics
/// When what is read lies outside of the disk or is not in order, or is not the same after it was written and read again.
pub async fn qcow2(input: &[u8]) -> bool {
    let mut disk = match Disk::open(input).await {
        Ok(disk) => disk,
        Err(fault) => return refused(&fault),
    };
    let (size, mut pieces, mut last) = (disk.size(), Vec::new(), 0);
    assert!(size > 0 && size <= 1 << 46, "{size}");
    let mut is_whole = false;
    for _ in 0..MOST_STEPS {
        match disk.step().await {
            Ok(Step::End) => {
                is_whole = true;
                break;
            }
            Ok(Step::Zeros) => {}
            Err(fault) => return refused(&fault),
            Ok(Step::Data(piece)) => {
                assert!(piece.offset >= last && piece.data.len() <= 2 << 20 && !image::is_zero(&piece.data));
                last = piece.offset + piece.data.len() as u64;
                assert!(last <= size && disk.position() >= last);
                pieces.push(piece);
                if pieces.len() == MOST_PIECES {
                    break;
                }
            }
        }
    }
    if size <= MOST_WRITTEN && is_whole {
        written_again(size, &pieces).await;
    }
    true
}

/// Disks that are written again have at most so many bytes.
const MOST_WRITTEN: u64 = 4 << 20;

fn refused(fault: &Fault) -> bool {
    assert!(fault.kind == FaultKind::BadRequest && !fault.message.is_empty(), "{fault:?}");
    false
}

async fn written_again(size: u64, pieces: &[Piece]) {
    let mut whole = vec![0; usize::try_from(size).expect("a disk in memory")];
    for piece in pieces {
        let from = usize::try_from(piece.offset).expect("an offset in memory");
        whole[from..from + piece.data.len()].copy_from_slice(&piece.data);
    }
    let mut writer = Writer::new(Memory(Vec::new()), size);
    for (n, part) in (0_u64..).zip(whole.chunks(64 << 10)).filter(|(_, part)| !image::is_zero(part)) {
        writer.write(n * (64 << 10), part).await.expect("memory can be written to");
    }
    let (file, length) = writer.finish().await.expect("memory can be written to");
    assert_eq!(file.0.len() as u64, length);
    let mut disk = Disk::open(&file.0[..]).await.expect("what was written is sound");
    assert_eq!(disk.size(), size);
    loop {
        let piece = match disk.step().await.expect("what was written is sound") {
            Step::Data(piece) => piece,
            Step::Zeros => continue,
            Step::End => break,
        };
        let from = usize::try_from(piece.offset).expect("an offset in memory");
        assert!(whole[from..from + piece.data.len()] == piece.data, "data at {from} has changed");
        whole[from..from + piece.data.len()].fill(0);
    }
    assert!(image::is_zero(&whole), "data has gone");
}
